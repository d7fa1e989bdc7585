"""Pseudonyms: what counts as one spelling in each domain, old forms that are still found, and one way to read a secret."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from components.core.errors import ServiceError
from components.core.pseudonym import FILES, LABELS, Pseudonymiser, load_pseudonymiser
from components.core.secret import secret, secret_bytes
from pipelines.erase_plan import keys_of

KEY = b"a-secret-of-the-hospital-2026"
P = Pseudonymiser(KEY)
QUICK = hypothesis.settings(max_examples=300, deadline=None, database=None, derandomize=True)
NAMES = st.text(st.sampled_from("aAbBéÉüÜ ñ\u0301\u0308\u00a0\t1_-.\x1f\x1bßIİı"), max_size=8) | st.text(max_size=8)


def before(domain: str, *parts: str) -> str:
    """An id as it was made until spellings were told apart by domain."""
    text = "\x1f".join((domain, *(" ".join(p.split()).upper() for p in parts)))
    return hmac.new(KEY, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()[:16]


@QUICK
@hypothesis.given(st.lists(NAMES, min_size=1, max_size=3), st.lists(NAMES, min_size=1, max_size=3), st.sampled_from(sorted(FILES)))
def test_two_names_of_files_are_two_ids(one: list[str], other: list[str], domain: str):
    """Whatever they differ in: case, blanks, Unicode form, a separator inside of a part."""
    assert (P.id(domain, *one) == P.id(domain, *other)) == (one == other)


@QUICK
@hypothesis.given(NAMES, NAMES)
def test_two_persons_are_one_only_where_their_ids_are_the_same_text(one: str, other: str):
    same = unicodedata.normalize("NFC", one).replace("\x1f", " ").strip() == unicodedata.normalize("NFC", other).replace("\x1f", " ").strip()
    hypothesis.assume("\0" not in one + other)
    assert (P.id("patient", one) == P.id("patient", other)) == same


@QUICK
@hypothesis.given(NAMES)
def test_unicode_forms_and_padding_are_one_person(name: str):
    for domain in ("patient", "lesion", *sorted(LABELS)):
        assert len({P.id(domain, f"{pad}{unicodedata.normalize(form, name)} ") for form in ("NFC", "NFD") for pad in ("", " ")}) == 1
    assert P.id("patient", f" {unicodedata.normalize('NFD', name)}\0 ") == P.id("patient", unicodedata.normalize("NFC", name))


@QUICK
@hypothesis.given(NAMES)
def test_erase_looks_for_every_id_that_the_name_ever_had(name: str):
    """Whichever spelling was recorded and whichever is asked for."""
    hypothesis.assume(name.strip(" \0") and name.isprintable())
    for recorded in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
        for asked in (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
            keys = keys_of(asked, P)
            assert P.id("patient", recorded) in keys
            if recorded in (unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
                assert before("patient", recorded) in keys
                assert f"path-{P.id('path', recorded)}" in keys


def test_ids_without_anything_to_fold_are_what_they_were():
    """Devices and persons of homes that exist: known scanners stay known."""
    for domain in ("device", "software", "site", "word"):
        assert P.id(domain, "Siemens  healthineers", "Sensation 16", "x1") == before(domain, "Siemens  healthineers", "Sensation 16", "x1")
    for domain in ("patient", "study", "series", "sop"):
        assert P.id(domain, "1.2.840.10008.5") == before(domain, "1.2.840.10008.5")
    assert P.id("patient", "SYN-0001") == before("patient", "SYN-0001")
    assert P.id("patient", "syn-0001") != P.id("patient", "SYN-0001")


# One way to read a secret


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    for name in ("DXFLOW_KEY", "DXFLOW_KEY_FILE", "S", "S_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n", " \n"])
def test_a_key_is_the_same_whichever_way_it_comes(end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And what a file held has always been read without the blanks at its ends, so that homes keep their pseudonyms."""
    (tmp_path / "key").write_bytes(KEY + end.encode())
    monkeypatch.setenv("DXFLOW_KEY_FILE", str(tmp_path / "key"))
    by_file = load_pseudonymiser()[0].id("patient", "P1")
    monkeypatch.setenv("DXFLOW_KEY", KEY.decode() + end)
    assert load_pseudonymiser()[0].id("patient", "P1") == by_file == before("patient", "P1")


def test_the_key_of_a_home_stays_what_it_was(tmp_path: Path):
    (tmp_path / "home").mkdir()
    for data in (KEY, KEY + b"\n", b" " + KEY + b"\r\n"):
        (tmp_path / "home" / "pseudonym.key").write_bytes(data)
        found, made = load_pseudonymiser()
        assert (found.id("patient", "P1"), made) == (before("patient", "P1"), False)


def test_a_blank_key_is_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Making a new one in its place would give everybody another name."""
    (tmp_path / "key").write_text("\n")
    monkeypatch.setenv("DXFLOW_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(ServiceError, match="too short"):
        load_pseudonymiser()
    monkeypatch.setenv("DXFLOW_KEY_FILE", str(tmp_path / "absent"))
    with pytest.raises(ServiceError, match="no such key file"):
        load_pseudonymiser()
    monkeypatch.setenv("DXFLOW_KEY", " \n")
    with pytest.raises(ServiceError, match="too short"):
        load_pseudonymiser()


@QUICK
@hypothesis.given(st.binary(min_size=1, max_size=40).filter(lambda b: b"\0" not in b), st.sampled_from(["", "\n", "\r\n", " "]))
def test_any_secret_is_one_value_by_variable_and_by_file(data: bytes, end: str):
    import os
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(data + end.encode())
        file.flush()
        by_file = secret_bytes("S", {"S_FILE": file.name})
    assert by_file == secret_bytes("S", {"S": os.fsdecode(data) + end}) == data.strip()


def test_no_secret_is_none():
    assert secret("S", {}) is None
    assert secret("S", {"S": ""}) is None
    assert secret("S", {"S": " \n"}) is None
