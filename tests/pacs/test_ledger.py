"""The ledger: what it keeps, for how many writers, and that `dxflow erase` takes a patient out of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from components.core.errors import ServiceError, SpecError
from components.core.pseudonym import Pseudonymiser
from pipelines.__main__ import cli
from serving.pacs.ledger import ANSWERED, ARRIVING, DECLINED, FAILED, Entry, Ledger, alone
from tests.pacs.studies import KEY

PATIENT, OTHER = "HOSP 4711-Q", "HOSP 4712-R"


def entry(study: str, **changes: Any) -> Entry:
    return Entry(**{"study": study, "digest": "d" * 64, "model": "lung-nodule"} | changes)


def invoked(*arguments: str) -> Any:
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    if done.exception:
        raise done.exception
    return done


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of two patients, one of them with two studies, in DXFLOW_HOME."""
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("DXFLOW_KEY", KEY)
    own, other = (Pseudonymiser(KEY.encode()).id("patient", name) for name in (PATIENT, OTHER))
    path = tmp_path / "pacs" / "ledger.db"
    with Ledger(path) as made:
        made.put(entry("a" * 16, patient=own, state=ANSWERED))
        made.put(entry("b" * 16, patient=own, state=DECLINED, reasons=("mixed orientations (1 series)",)))
        made.put(entry("c" * 16, patient=other, state=FAILED, attempts=6, reasons=("a defect of dxflow: KeyError",)))
    return path


def test_what_is_written_is_read_again_by_another_process_s_eyes(ledger: Path):
    with Ledger(ledger) as opened:
        assert opened.get("b" * 16, "d" * 64) == opened.all((DECLINED,))[0]
        assert opened.all((DECLINED,))[0].reasons == ("mixed orientations (1 series)",)
        assert opened.counts() == {("lung-nodule", ANSWERED): 1, ("lung-nodule", DECLINED): 1, ("lung-nodule", FAILED): 1}
    assert ledger.stat().st_mode & 0o777 == 0o600


def test_one_loop_at_a_time(ledger: Path):
    with alone(ledger), pytest.raises(ServiceError, match="another dxflow pacs works with this ledger"), alone(ledger):
        pass


def test_a_file_that_is_no_ledger_is_one_line(tmp_path: Path):
    (tmp_path / "ledger.db").write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(ServiceError, match="not a ledger"):
        Ledger(tmp_path / "ledger.db")


def test_the_dead_are_listed_with_reasons_and_put_back(ledger: Path):
    listed = json.loads(invoked("pacs", "--failed", "--json").output)["failed"]
    assert [(row["study"], row["state"], row["reasons"]) for row in listed] == [
        ("b" * 16, DECLINED, ["mixed orientations (1 series)"]),
        ("c" * 16, FAILED, ["a defect of dxflow: KeyError"]),
    ]
    assert "mixed orientations" in invoked("pacs", "--failed").output
    assert json.loads(invoked("pacs", "--retry", "--json").output)["retried"] == 2
    with Ledger(ledger) as opened:
        assert sorted(e.state for e in opened.all()) == [ANSWERED, ARRIVING, ARRIVING]


def test_an_erased_patient_leaves_no_byte_in_the_ledger(ledger: Path):
    key = Pseudonymiser(KEY.encode()).id("patient", PATIENT)
    dry = json.loads(invoked("erase", PATIENT, "--dry-run", "--json").output.splitlines()[-1])
    assert (dry["pacs"], dry["left"]) == (2, [])
    assert key.encode() in ledger.read_bytes()
    assert json.loads(invoked("erase", PATIENT, "--json").output.splitlines()[-1])["pacs"] == 2
    for text in (key, "a" * 16, "b" * 16):
        assert text.encode() not in ledger.read_bytes()
    with Ledger(ledger) as opened:
        assert [e.study for e in opened.all()] == ["c" * 16]


def test_the_keyed_hash_of_a_patient_whom_only_the_ledger_knows_does_as_well(ledger: Path):
    key = Pseudonymiser(KEY.encode()).id("patient", OTHER)
    assert json.loads(invoked("erase", "--key", key, "--json").output.splitlines()[-1])["pacs"] == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "text"),
    [
        (["pacs"], {}, "what to watch, and for whom?"),
        (["pacs", "lung-nodule", "--url", "ftp://pacs"], {}, "not an address of a DICOMweb server"),
        (["pacs", "lung-nodule", "--url", "http://u:p@pacs/dicom-web"], {}, "credentials in the environment"),
        (["pacs", "lung-nodule", "--url", "https://pacs", "--ca", "/nowhere.pem"], {}, "not a file of certificates"),
        (["pacs", "lung-nodule", "--url", "http://pacs/x"], {"DXFLOW_PACS_TOKEN": "t"}, "credentials would cross the network unencrypted"),
        (["pacs", "lung-nodule", "--url", "https://pacs"], {"DXFLOW_PACS_USER": "u"}, "user or password is missing"),
    ],
)
def test_bad_input_is_one_line(ledger: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], environment: dict[str, str], text: str):
    for name in ("USER", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"DXFLOW_PACS_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SpecError) as caught:
        invoked(*arguments)
    assert text in str(caught.value)
