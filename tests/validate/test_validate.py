"""Bad data fail, doubtful data warn, a broken check says that it is broken, and nothing personal gets onto the page."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core.dataset import Dataset
from components.core.dataset_writer import Sample, write_dataset
from components.core.errors import DataError, DxflowError, ServiceError
from components.core.spec import DiseaseSpec
from components.validate import checks as module
from components.validate import near
from components.validate.step import validate
from components.validate.suite import FINDING, checks, schema_checks
from pipelines import catalog

BASE: dict[str, Any] = tomllib.loads((catalog.FOLDER / "lung-nodule.toml").read_text(encoding="utf-8"))
N = 240
Change = Callable[[int, dict[str, Any], np.ndarray], np.ndarray | None]


def made(**changes: Any) -> DiseaseSpec:
    raw = copy.deepcopy(BASE)
    raw["input"]["shape"] = [1, 24, 24]
    for path, value in changes.items():
        part = raw
        *parents, last = path.split("__")
        for name in parents:
            part = part[name]
        part[last] = value
    return DiseaseSpec.model_validate(raw)


def row(i: int) -> dict[str, Any]:
    """Sample i of 240: 80 patients with three samples, 3 devices, 2 classes, all combinations in all splits."""
    patient = i // 3
    return {
        "sample_id": f"{i:016x}",
        "group_id": f"{patient:015x}a",
        "patient_id": f"{patient:015x}a",
        "series_id": f"{patient:015x}b",
        "device_key": "abc"[i % 3] * 16,
        "manufacturer": "SIEMENS",
        "model": "SENSATION 16",
        "software": "0f" * 8,
        "acquired_at": pd.Timestamp("2020-01-01", tz="UTC") + pd.Timedelta(days=patient),
        "acq_kvp": 120.0,
        "acq_slice_thickness_mm": 1.25,
        "acq_pixel_mm": 0.7,
        "acq_rows": 512,
        "acq_columns": 512,
        "acq_bits": 12,
        "acq_photometric": "MONOCHROME2",
        "acq_transfer_syntax": "1.2.840.10008.1.2.4.90",
        "acq_modality": "CT",
        "label": patient % 2,
        "split": ("train", "val", "test")[(patient // 2) % 3],
        "synthetic": False,
    }


def dataset(folder: Path, spec: DiseaseSpec, change: Change | None = None, quarantine: list[dict[str, Any]] | None = None) -> Path:
    """Noise images, all different; `change(i, row, array)` edits a row in place and may return another array."""
    rng = np.random.default_rng(7)
    arrays = [rng.integers(-900, 300, (1, 24, 24)).astype(np.int16) for _ in range(N)]

    def samples() -> Any:
        for i in range(N):
            r, x = row(i), arrays[i]
            if change and (new := change(i, r, x)) is not None:
                x = new
            yield Sample(row=r, array=x)

    write_dataset(folder, spec, samples(), count=N, quarantine=quarantine or [], provenance={})
    return folder


def verdict(spec: DiseaseSpec, folder: Path, out: Path) -> tuple[str, dict[str, dict[str, Any]], str]:
    """The written verdict, the checks by id, and the error's line or ''."""
    line = ""
    try:
        returned = validate(spec, dataset=folder, out=out)
    except DxflowError as error:
        line = f"{type(error).__name__}: {error}"
        returned = None
    report = json.loads((out / "validation.json").read_text())
    assert returned in (None, report["verdict"])
    return report["verdict"], {c["id"]: c for c in report["checks"]}, line


def set_value(rows: set[int] | range, **values: Any) -> Change:
    def change(i: int, r: dict[str, Any], x: np.ndarray) -> None:
        if i in rows:
            r.update(values)

    return change


def test_a_sound_dataset_passes_with_every_check(tmp_path: Path) -> None:
    spec = made()
    got, by_id, line = verdict(spec, dataset(tmp_path / "d", spec), tmp_path / "out")
    assert (got, line, {c["status"] for c in by_id.values()}) == ("pass", "", {"pass"})
    assert set(by_id) == {c.id for c in schema_checks() + checks(spec)}
    assert by_id["bytes_match"]["figures"] == {"hashed": N, "differ": 0}


def test_every_finding_has_its_function_and_every_function_its_check() -> None:
    """Over all specs of the catalogue and all kinds of target."""
    used = set()
    specs = [catalog.load(name) for name in catalog.names()]
    specs += [made(split__grouping="lesion"), made(target={"kind": "multilabel", "classes": ["a", "b"], "source": "x"})]
    specs.append(made(split__folds=4, external=[{"name": "pool", "source": "pool", "role": "pretrain"}]))
    for spec in specs:
        suite = schema_checks() + checks(spec)
        assert len({c.id for c in suite}) == len(suite)
        used |= {c.id for c in suite if c.kind == FINDING}
    assert used == set(module.CHECKS)


TRAIN = {i for i in range(N) if row(i)["split"] == "train"}
# What is wrong with one dataset: the faults, and the checks that must catch them; every other check holds.
BAD: dict[str, tuple[list[Change], dict[str, str]]] = {
    "many single faults": (
        [
            set_value({0}, split="test"),
            set_value({5}, acq_modality="MR"),
            set_value({9}, label=2),
            set_value({3}, model="MEIER^HANS"),
            set_value({6}, software="19500312"),
            set_value({17}, synthetic=True),
            set_value({21}, acq_pixel_mm=700.0),
        ],
        dict.fromkeys(("groups_apart", "modality", "label_values", "private_text", "one_origin", "range_acq_pixel_mm"), "fail"),
    ),
    "columns without values": (
        [set_value(range(N), label=None, acq_pixel_mm=None, acq_bits=None)],
        {
            "has_label": "fail",
            "has_acq_pixel_mm": "fail",
            "has_acq_bits": "warn",
            "classes_trained": "fail",
            "classes_judged": "warn",
            "device_classes": "warn",
        },
    ),
    "a class that is not in train": ([set_value(TRAIN, label=0)], {"classes_trained": "fail", "class_shares": "warn"}),
    "what only warns": (
        [
            set_value(range(0, N, 3), manufacturer="other-0a1b2c3d", model="other-19654118"),  # no long number, no date: a keyed name
            set_value(range(1, N, 3), model="other-20120131"),
            set_value({4}, acquired_at=pd.Timestamp("1800-01-01", tz="UTC")),
            set_value({5}, acq_kvp=28.0),
            set_value({6}, device_key="unknown"),
        ],
        dict.fromkeys(("makers_known", "dates", "range_acq_kvp", "devices_known", "devices_large", "device_splits", "device_classes"), "warn"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_caught_by_its_check_and_by_no_other(name: str, tmp_path: Path) -> None:
    """And neither the page, the JSON nor the error shows a value of a row."""
    faults, expected = BAD[name]

    def change(i: int, r: dict[str, Any], x: np.ndarray) -> None:
        for fault in faults:
            fault(i, r, x)

    spec = made()
    got, by_id, line = verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "out")
    assert {i: c["status"] for i, c in by_id.items() if c["status"] != "pass"} == expected
    assert got == ("fail" if "fail" in expected.values() else "warn")
    assert line.startswith("DataError: lung-nodule: validate: validation failed: ") == (got == "fail")
    for text in ((tmp_path / "out" / "validation.json").read_text(), (tmp_path / "out" / "validation.html").read_text(), line):
        assert not any(value in text for value in ("MEIER", "19500312", "other-0a1b2c3d"))


def test_in_set_alone_would_pass_a_column_without_values() -> None:
    """The trap behind the not-null checks: Great Expectations finds an all-null column within any set."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    frame = pd.DataFrame({"label": [None, None]})
    batch = gx.get_context(mode="ephemeral").data_sources.add_pandas("p").add_dataframe_asset("a").add_batch_definition_whole_dataframe("b")
    suite = gx.ExpectationSuite("s", expectations=[gxe.ExpectColumnValuesToBeInSet(column="label", value_set=[0, 1])])
    assert batch.get_batch({"dataframe": frame}).validate(suite).success


def recompressed(x: np.ndarray) -> np.ndarray:
    """A near-copy: brighter, with a little noise."""
    noise = np.random.default_rng(1).normal(0, 12, x.shape)
    return np.clip(x * 0.95 + 30 + noise, -1000, 400).astype(np.int16)


@pytest.mark.parametrize("grouping", ["patient", "none"])
@pytest.mark.parametrize("kind", ["copies_across", "near_copies"])
def test_a_copy_in_another_split_fails_or_warns_where_there_are_no_groups(kind: str, grouping: str, tmp_path: Path) -> None:
    """Sample 9 (val) shows sample 0 (train) again."""
    first: list[np.ndarray] = []

    def change(i: int, r: dict[str, Any], x: np.ndarray) -> np.ndarray | None:
        if i == 0:
            first.append(x)
        return (first[0] if kind == "copies_across" else recompressed(first[0])) if i == 9 else None

    assert (row(0)["split"], row(9)["split"]) == ("train", "val")
    spec = made(split__grouping=grouping, split__given=True)
    got, by_id, _ = verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "out")
    expected = "fail" if grouping == "patient" else "warn"
    assert (got, by_id[kind]["status"]) == (expected, expected)
    other = "near_copies" if kind == "copies_across" else "copies_across"
    assert by_id[other]["status"] == "pass"


def test_the_same_near_copy_within_a_split_is_no_leak(tmp_path: Path) -> None:
    first: list[np.ndarray] = []

    def change(i: int, r: dict[str, Any], x: np.ndarray) -> np.ndarray | None:
        if i == 0:
            first.append(x)
        return recompressed(first[0]) if i == 3 else None

    assert row(0)["split"] == row(3)["split"]
    spec = made()
    assert verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "out")[0] == "pass"


def test_images_that_share_a_background_are_not_near_copies(tmp_path: Path) -> None:
    """As with eyes or heads photographed alike: nearly equal hashes, but nothing in common beyond the mean image."""
    ramp = np.add.outer(np.linspace(0, 150, 24) ** 1.1, np.linspace(-700, 300, 24))[None]
    rng = np.random.default_rng(3)

    def change(i: int, r: dict[str, Any], x: np.ndarray) -> np.ndarray:
        return np.clip(ramp + rng.normal(0, 15, (1, 24, 24)), -1000, 400).astype(np.int16)

    spec = made()
    _, by_id, _ = verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "out")
    assert by_id["near_copies"]["status"] == "pass"
    assert by_id["near_copies"]["figures"]["compared"] > 1000


def test_close_pairs_finds_what_brute_force_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes with 0 to 11 flipped bits, compared in small blocks; and, all equal, a bounded number."""
    rng = np.random.default_rng(0)
    h = rng.integers(0, 2**64, 400, dtype=np.uint64)
    h[200:] = h[:200]
    for i in range(200):
        for bit in rng.choice(64, i % 12, replace=False):
            h[200 + i] ^= np.uint64(1 << int(bit))
    i, j = np.nonzero(np.triu(np.bitwise_count(h[:, None] ^ h[None]) <= near.NEAR_BITS, 1))

    def any_pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.ones(len(a), dtype=bool)

    monkeypatch.setattr(near, "BLOCK", 64)
    pairs, more = module.close_pairs(h, any_pair)
    assert set(map(tuple, pairs.tolist())) == set(zip(i.tolist(), j.tolist(), strict=True))
    assert not more
    monkeypatch.setattr(near, "NEAR_PAIRS", 50)
    pairs, more = module.close_pairs(np.zeros(100, dtype=np.uint64), any_pair)
    assert (len(pairs), more) == (50, True)


def tampered(folder: Path, how: str) -> None:
    shard = folder / "shards" / "00000.npy"
    raw = bytearray(shard.read_bytes())
    if how == "one byte":
        raw[-1000] ^= 1
    elif how == "cut":
        raw = raw[: len(raw) // 2]
    elif how == "header":
        raw[:6] = b"NOTNPY"
    shard.write_bytes(raw)
    if how == "gone":
        shard.unlink()


@pytest.mark.parametrize("how", ["one byte", "cut", "header", "gone"])
def test_damaged_shards_fail_as_bad_data(how: str, tmp_path: Path) -> None:
    spec = made()
    folder = dataset(tmp_path / "d", spec)
    tampered(folder, how)
    got, by_id, line = verdict(spec, folder, tmp_path / "out")
    assert (got, by_id["bytes_match"]["status"]) == ("fail", "fail")
    assert "broken check" not in {c["status"] for c in by_id.values()}
    if how == "one byte":
        assert by_id["bytes_match"]["figures"]["differ"] == 1
        assert line.endswith("'The shards hold the bytes that the manifest describes' does not hold: 1 of 240 samples differ from the manifest")


def test_other_columns_stop_at_the_contract(tmp_path: Path) -> None:
    """One clear failure, not forty broken checks; a column named after a person's data is named as such."""
    spec = made()
    folder = dataset(tmp_path / "d", spec)
    frame = pd.read_parquet(folder / "manifest.parquet").drop(columns="software")
    frame["patient_name"] = "x"
    frame.to_parquet(folder / "manifest.parquet")
    got, by_id, line = verdict(spec, folder, tmp_path / "out")
    assert {i: c["status"] for i, c in by_id.items()} == {"columns": "fail", "private_columns": "fail"}
    assert (got, "missing: software; 1 unknown" in line, "(+1 more)" in line) == ("fail", True, True)


def test_a_check_that_raises_is_broken_and_not_bad_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Great Expectations reports both as success: false; we stop with another error, naming the exception but not its text."""

    def broken(data: module.Data) -> module.Finding:
        raise ZeroDivisionError("MEIER^HANS")

    monkeypatch.setitem(module.CHECKS, "device_association", broken)
    spec = made()
    folder = dataset(tmp_path / "d", spec)
    with pytest.raises(ServiceError, match=r"broken check: 'The device does not give the label away': the check raised ZeroDivisionError"):
        validate(spec, dataset=folder, out=tmp_path / "out")
    report = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert (report["verdict"], report["summary"]["broken check"]) == ("broken check", 1)
    assert not any("MEIER" in p.read_text() for p in (tmp_path / "out").iterdir())


def test_bad_data_outrank_a_broken_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(module.CHECKS, "dates", lambda data: 1 // 0)
    spec = made()
    with pytest.raises(DataError, match="validation failed"):
        validate(spec, dataset=dataset(tmp_path / "d", spec, set_value({9}, label=2)), out=tmp_path / "out")


def test_devices_that_give_the_label_away_warn(tmp_path: Path) -> None:
    """Device a brings all malignant cases: nothing tells the disease from the device."""
    spec = made()

    def change(i: int, r: dict[str, Any], x: np.ndarray) -> None:
        r["device_key"] = "a" * 16 if r["label"] else "b" * 16

    got, by_id, _ = verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "out")
    assert got == "warn"
    assert {c: by_id[c]["status"] for c in ("class_devices", "device_association", "device_classes", "device_splits")} == {
        "class_devices": "warn",
        "device_association": "warn",
        "device_classes": "warn",
        "device_splits": "pass",
    }
    assert by_id["device_association"]["figures"]["v"] == pytest.approx(1.0)


def test_wrong_units_and_blank_images_fail(tmp_path: Path) -> None:
    spec = made()
    windowed = dataset(tmp_path / "d", spec, lambda i, r, x: (x // 8 + 2000).astype(np.int16))
    assert verdict(spec, windowed, tmp_path / "out")[1]["values_in_range"]["status"] == "fail"
    blank = dataset(tmp_path / "e", spec, lambda i, r, x: np.full_like(x, i % 300) if i % 3 == 0 else None)
    found = verdict(spec, blank, tmp_path / "out")[1]
    assert (found["mostly_not_blank"]["status"], found["mostly_not_blank"]["figures"]["blank"]) == ("fail", N // 3)


def test_quarantine_is_shown_by_reason_without_what_looks_personal(tmp_path: Path) -> None:
    spec = made()
    aside = [{"file": "0001.dcm", "reason": "truncated pixel data", "offset": 8}] * 20 + [{"file": "x", "reason": "bad MEIER^HANS", "offset": None}]
    got, by_id, _ = verdict(spec, dataset(tmp_path / "d", spec, quarantine=aside), tmp_path / "out")
    assert (by_id["set_aside"]["status"], by_id["set_aside"]["seen"]) == ("warn", "21 files: truncated pixel data (20)")
    assert (got, by_id["private_text"]["status"]) == ("fail", "fail")


def test_what_was_only_skipped_is_no_damage(tmp_path: Path) -> None:
    """As many byte-equal copies as samples: told, and no warning; 21 damaged files are one."""
    spec = made()
    aside: list[dict[str, Any]] = [{"file": f"{n}.dcm", "reason": "a copy", "offset": None, "skipped": True} for n in range(N)]
    folder = dataset(tmp_path / "d", spec, quarantine=aside)
    _, by_id, _ = verdict(spec, folder, tmp_path / "out")
    assert (by_id["set_aside"]["status"], by_id["set_aside"]["seen"]) == ("pass", f"0 files; {N} others were not meant, or repeat one")
    counts = Dataset(folder).info["counts"]
    assert (counts["quarantined"], counts["skipped"]) == (0, N)
    aside += [{"file": "0001.dcm", "reason": "truncated pixel data", "offset": 8, "skipped": False}] * 21
    _, by_id, _ = verdict(spec, dataset(tmp_path / "e", spec, quarantine=aside), tmp_path / "out2")
    assert (by_id["set_aside"]["status"], by_id["set_aside"]["figures"]) == ("warn", {"files": 21, "skipped": N})


def test_no_dataset_is_a_data_error_and_writes_nothing(tmp_path: Path) -> None:
    spec = made()
    with pytest.raises(DataError, match="not a dataset"):
        validate(spec, dataset=tmp_path, out=tmp_path / "out")
    folder = dataset(tmp_path / "d", spec)
    (folder / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"manifest\.parquet cannot be read"):
        validate(spec, dataset=folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_page_opens_offline_and_marks_synthetic_data(tmp_path: Path) -> None:
    """No script, no address to load from; the same bytes again; synthetic data say so on top."""
    spec = made()
    folder = dataset(tmp_path / "d", spec, set_value(range(N), synthetic=True))
    assert verdict(spec, folder, tmp_path / "out")[0] == "pass"
    html = (tmp_path / "out" / "validation.html").read_text()
    assert not re.search(r"<script|https?://|src=|@import|url\(", html)
    assert "Synthetic data" in html
    verdict(spec, folder, tmp_path / "again")
    assert [(tmp_path / "again" / n).read_bytes() for n in ("validation.json", "validation.html")] == [
        (tmp_path / "out" / n).read_bytes() for n in ("validation.json", "validation.html")
    ]
    assert "Synthetic data" not in page_of(tmp_path, spec)


def page_of(tmp_path: Path, spec: DiseaseSpec) -> str:
    validate(spec, dataset=dataset(tmp_path / "real", spec), out=tmp_path / "real-out")
    return (tmp_path / "real-out" / "validation.html").read_text()


def test_nothing_is_written_to_home_or_the_current_folder_and_nothing_is_sent(tmp_path: Path) -> None:
    """In a process of its own whose sockets raise: Great Expectations' analytics would open one."""
    spec = made()
    folder = dataset(tmp_path / "d", spec)
    (tmp_path / "home").mkdir()
    (tmp_path / "cwd").mkdir()
    code = """
import socket, sys
from pathlib import Path
opened = []
def refuse(self, address): opened.append(str(address)); raise OSError("no network")
socket.socket.connect = refuse
from components.core.spec import DiseaseSpec
from components.validate.step import validate
print(validate(DiseaseSpec.from_json(sys.argv[1]), dataset=Path(sys.argv[2]), out=Path(sys.argv[3])))
assert not opened, opened
assert not {"torch", "feast", "mlflow"} & set(sys.modules)
"""
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
    environment.pop("DXFLOW_HOME", None)
    arguments = [sys.executable, "-c", code, spec.to_json(), str(folder), str(tmp_path / "out")]
    done = subprocess.run(arguments, cwd=tmp_path / "cwd", env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["pass"]), done.stderr
    assert [*(tmp_path / "home").rglob("*"), *(tmp_path / "cwd").rglob("*")] == []
