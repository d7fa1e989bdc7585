"""Recordings as text: rates, windows and labels with known values, and what is refused and where."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError, SpecError
from components.core.recordings.table import Stretch, Table
from components.core.recordings.windows import Geometry, low_pass, windows
from components.core.spec import DiseaseSpec
from components.ingest.remarks import DATE
from components.ingest.step import ingest
from tests.ingest.made import PSEUDONYMISER, ROOT, hidden

DATA = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data")
HEADER = "time,A0,A1,A2,U0,U1,U2,T1,T2,T3,N"


def fog(**changes: dict[str, Any]) -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "parkinson-fog.toml").model_dump(mode="json")
    raw["split"] |= {"folds": 1}
    raw["limits"] |= {"quarantine_share": 1}
    for part, values in changes.items():
        raw[part] = {**raw[part], **values}
    return DiseaseSpec.model_validate(raw)


SPEC = fog()


def rows(seconds: float, *, rate: float = 64.0, hz: float = 3.0, start: int = 0, label: int = 1) -> np.ndarray:
    """(n, 11) of a recording: a sine of 500 mg at `hz` on gravity; channel c is c degrees late."""
    t = np.arange(1, int(seconds * rate) + 1) / rate
    values = 600 + 500 * np.sin(2 * np.pi * hz * t[:, None] - np.deg2rad(np.arange(9)))
    return np.column_stack([start + np.floor(t * 1000), np.rint(values), np.full(len(t), label)])


def text(table: np.ndarray, head: str = "") -> str:
    return head + HEADER + "\n" + "".join(",".join(f"{v:g}" if abs(v) < 1e5 else f"{v:.0f}" for v in row) + "\n" for row in table)


def cut(content: str, spec: DiseaseSpec = SPEC, *, size: int = 65_536, piece_s: float = 1e9) -> tuple[list[Any], Table]:
    """The windows of a file's text, and the table with what it found broken."""
    assert spec.recording is not None
    table = Table(io.StringIO(content), spec.recording, spec.target.classes)
    stretches = list(table.stretches(size))
    return list(windows(stretches, Geometry(spec), 1 / table.period_s, piece_s=piece_s)), table


def run(files: dict[str, str], tmp_path: Path, spec: DiseaseSpec = SPEC) -> Dataset:
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_text(content)
    ingest(spec, str(tmp_path / "in"), dataset=tmp_path / "dataset", features=tmp_path / "features", workers=1)
    return Dataset(tmp_path / "dataset")


@pytest.mark.parametrize("rate", [25.0, 40.0, 50.0, 64.0, 100.0])
def test_every_rate_gives_the_same_sine_at_40_hz(rate: float):
    """3 Hz survives any rate: within 1 % of its amplitude (clocks tick in whole milliseconds, values in whole mg)."""
    found, table = cut(text(rows(12, rate=rate)))
    assert 1 / table.period_s == pytest.approx(rate, rel=2e-3)
    window = found[2]
    t = window.start_s + np.arange(204) / 40
    late = np.deg2rad(np.arange(9))[:, None]
    expected = 600 + 500 * np.sin(2 * np.pi * 3 * t - late)
    # A clock that drops fractions of a millisecond is late by half a millisecond: 2 pi 3 Hz x 1 ms x 500 mg = 9 mg at most.
    assert np.abs(window.values - expected).max() < 15


def test_what_40_hz_cannot_carry_does_not_fold_into_the_band():
    """25 Hz sampled at 64 Hz would show as 15 Hz after dropping to 40 Hz; the filter leaves a thousandth of it, and keeps 10 Hz."""
    t = np.arange(2000) / 64
    gone, kept = (low_pass(np.sin(2 * np.pi * hz * t)[:, None], 64, 40)[200:-200] for hz in (25.0, 10.0))
    assert np.abs(gone).max() < 1.5e-3
    assert np.abs(kept[:, 0] - np.sin(2 * np.pi * 10 * t[200:-200])).max() < 1e-2
    assert low_pass(kept, 40, 40) is kept


def test_windows_lie_on_a_grid_and_their_class_is_that_of_their_last_half():
    """20 s at 64 Hz, freezing from 10 s on: windows every 1.275 s (51 samples); half of the last 102 samples decide."""
    table = rows(20)
    table[:, -1] = np.where(table[:, 0] >= 10_000, 2, 1)
    found, _ = cut(text(table))
    first = table[0, 0] / 1000
    assert [w.start_s for w in found] == pytest.approx([first + k * 51 / 40 for k in range(len(found))])
    assert len(found) == (int((table[-1, 0] / 1000 - first) * 40) - 203) // 51 + 1
    for w in found:
        labelled = w.start_s + np.arange(102, 204) / 40
        assert w.label == int((labelled >= 9.992).mean() >= 0.5)
    assert {w.label for w in found} == {0, 1}


def test_rows_outside_the_experiment_are_in_no_window():
    table = rows(30)
    table[table[:, 0] < 8000, -1] = 0
    table[(table[:, 0] > 16_000) & (table[:, 0] < 20_000), -1] = 0
    table[table[:, -1] == 0, 1:10] = 99_999
    found, broken = cut(text(table))
    starts = np.array([w.start_s for w in found])
    assert not broken.broken
    assert starts.min() == pytest.approx(8.0, abs=0.02)
    assert not ((starts + 5.1 > 16.001) & (starts < 19.999)).any()
    assert np.abs(np.stack([w.values for w in found]) - 600).max() < 530
    assert len(found) == 3 + 4


@pytest.mark.parametrize("size", [100, 1000])
def test_pieces_of_any_size_give_the_same_windows(size: int):
    """Memory is bounded by working in pieces; the windows do not tell where they were.

    The sampling period is measured on the first piece: over 100 rows of whole milliseconds it is a little less exact.
    """
    table = rows(60, hz=2.7)
    table[table[:, 0] > 31_000, 0] += 500
    table[1500:1900, -1] = 2
    whole, _ = cut(text(table))
    pieces, broken = cut(text(table), size=size, piece_s=8.0)
    assert [(w.start_s, w.label) for w in pieces] == [(w.start_s, w.label) for w in whole]
    assert max(np.abs(a.values - b.values).max() for a, b in zip(whole, pieces, strict=True)) < 1e-2
    assert broken.broken == [("a gap in time", 31_000)]


def broken(change: Any) -> tuple[list[Any], list[tuple[str, int]]]:
    table = rows(24)
    found, read = cut(text(change(table)))
    return found, read.broken


def crosses(found: Iterable[Any], second: float) -> bool:
    return any(w.start_s < second < w.start_s + 203 / 40 for w in found)


def test_a_gap_is_named_by_its_time_and_no_window_crosses_it():
    found, faults = broken(lambda t: np.delete(t, slice(640, 644), axis=0))
    assert faults == [("a gap in time", 10_000)]
    assert not crosses(found, 10.03)
    assert crosses(found, 8.5)
    assert crosses(found, 10.2)


def test_one_lost_row_in_100_is_a_gap_and_jitter_is_none():
    """1.5 periods: a missing row is 2, a clock that trembles by 5 ms of 15.6 is 1.32 at most."""
    assert broken(lambda t: np.delete(t, 700, axis=0))[1] == [("a gap in time", 10_937)]

    def trembling(table: np.ndarray) -> np.ndarray:
        table[1::2, 0] += 2
        table[::2, 0] -= 3
        return table

    assert broken(trembling)[1] == []


def test_values_that_are_no_numbers_are_named_and_no_window_crosses_them():
    def changed(table: np.ndarray) -> np.ndarray:
        table[640, 4] = np.nan
        return table

    found, faults = broken(changed)
    assert faults == [("values that are no numbers", 10_015)]
    assert not crosses(found, 10.015)


def test_time_that_runs_backwards_is_named_and_what_repeats_is_not_used():
    found, faults = broken(lambda t: np.concatenate([t[:800], t[700:]]))
    assert faults[0] == ("time runs backwards", 10_953)
    assert {reason for reason, _ in faults} == {"time runs backwards"}
    assert not crosses(found, 12.505)
    assert len({w.start_s for w in found}) == len(found)


def test_a_channel_that_never_changes_is_a_fault_of_each_window():
    def changed(table: np.ndarray) -> np.ndarray:
        table[640:, 5] = 17
        return table

    found, faults = broken(changed)
    assert not faults
    faulty = [w.start_s for w in found if w.fault == "a channel that never changes"]
    assert faulty == [w.start_s for w in found if w.start_s + 102 / 40 > 10.0]


def test_a_cut_file_is_used_up_to_its_last_whole_row():
    """Cut anywhere, the last line says nothing sure: 97 may have been 970."""
    whole = text(rows(24))
    for lost, faults in ((3, [("the file ends within a row", 23_984)]), (0, [])):
        found, table = cut(whole[: len(whole) - lost] if lost else whole)
        assert table.broken == faults
        assert len(found) == len(cut(whole)[0])


def test_manifest_and_quarantine(tmp_path: Path):
    """Subjects are groups, recordings series; every fault is a row with the file and the time in ms; a bad file does not take others along."""
    good = text(rows(12), head="# device: unit-7\n# synthetic: 1\n")
    wrong_unit = rows(12)
    wrong_unit[:, 1:10] /= 1000
    gap = np.delete(rows(24), slice(640, 644), axis=0)
    files = {
        "S1R01.txt": good,
        "S1R02.txt": text(rows(12)).replace(",", "\t"),
        "S2R01.csv": text(gap),
        "S3R01.txt": text(wrong_unit),
        "S4R01.txt": text(rows(12)).replace("T3", "X3"),
        "S5R01.txt": "",
        "S6R01.txt": HEADER + "\n",
        "S7R01.txt": HEADER + "\n" + "a,b\n" * 9,
        "S8R01.txt": text(rows(12)).replace("\n", "\nx"),
        "notes.txt": "nothing",
    }
    found = run(files, tmp_path)
    m = found.manifest
    assert set(m["group_id"]) == {PSEUDONYMISER.id("patient", f"S{n}") for n in (1, 2)}
    assert m.groupby("group_id")["series_id"].nunique().to_dict() == {PSEUDONYMISER.id("patient", "S1"): 2, PSEUDONYMISER.id("patient", "S2"): 1}
    assert set(m["device_key"]) == {PSEUDONYMISER.id("device", "unit-7"), "unknown"}
    assert m["synthetic"].sum() == (m["device_key"] != "unknown").sum() == 6
    assert set(m["acq_rate_hz"]) == {np.float32(64)}
    assert m.groupby("group_id")["split"].nunique().max() == 1
    first = m[m["synthetic"]].sort_values("place", key=lambda p: p.str[0]).iloc[0]
    assert first["place"][0] == pytest.approx(0.015)
    names = {hidden(path.name): path.name for path in (tmp_path / "in").rglob("*.*")}
    named = found.quarantine.assign(file=found.quarantine["file"].map(names)).drop(columns="skipped")
    assert named.sort_values(["file", "offset"]).fillna(-1).to_numpy().tolist() == [
        ["S2R01.csv", "a gap in time", 10_000],
        ["S3R01.txt", "values outside recording.rms: another unit?", -1],
        ["S4R01.txt", "a column of the spec is missing", -1],
        ["S5R01.txt", "empty file", 0],
        ["S6R01.txt", "no rows", -1],
        ["S7R01.txt", "not a table of numbers", -1],
        ["S8R01.txt", "no clock in the time column", -1],
    ]
    notes = found.info["provenance"]["notes"]
    assert (notes["files of other names"], notes["windows"], notes["ms not judged: a gap in time"]) == (1, len(m), 62)
    lost = sum(n for name, n in notes.items() if name.startswith("ms not judged"))
    assert notes["ms judged"] + lost == pytest.approx(notes["ms recorded"], abs=9) == pytest.approx(48_000, abs=50)


def test_a_wild_stamp_is_told_in_quarantine_and_notes(tmp_path: Path):
    """One stamp of 1,920: two windows are named by their times, and the notes say what is missing of all recordings together."""
    table = rows(30)
    table[900, 0] = 999_999_999
    found = run({"S1R01.txt": text(table), "S2R01.txt": text(rows(30))}, tmp_path)
    notes = found.info["provenance"]["notes"]
    assert (len(found), notes["windows"], notes["windows missing"]) == (2 * 20 - 2, 38, 2)
    assert notes["ms not judged: a clock value that fits no neighbour"] == pytest.approx(1275, abs=1)
    assert set(found.quarantine["reason"]) == {"a clock value that fits no neighbour"}
    assert found.quarantine["offset"].between(8_000, 15_000).all()


@pytest.mark.parametrize(("rate", "clock"), [(5.0, 1.0), (64.0, 10.0), (64.0, 0.1), (64.0, 1000.0)])
def test_a_rate_that_is_none_is_named_and_the_file_lost(rate: float, clock: float, tmp_path: Path):
    table = rows(60, rate=rate)
    table[:, 0] *= clock
    with pytest.raises(DataError, match=r"1 of 2 recordings: sampled at \S+ Hz where the model wants 40 \(32 to 320\)"):
        run({"S1R01.txt": text(table), "S2R01.txt": text(rows(60))}, tmp_path, fog(limits={"quarantine_share": 0.15}))


def test_recordings_lost_as_a_whole_count_as_files(tmp_path: Path):
    """One of two files without a column is half of the source, however many windows the other one has."""
    files = {"S1R01.txt": text(rows(60)), "S2R01.txt": text(rows(60)).replace("T3", "X3")}
    with pytest.raises(DataError, match=r"too much of the source is unusable; .*got 1 of 2 recordings.*a column of the spec is missing"):
        run(files, tmp_path, fog(limits={"quarantine_share": 0.15}))


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        ("recording", {"file": "S.*"}, "group 'subject'"),
        ("recording", {"channels": ["A0"]}, "1 columns"),
        ("recording", {"classes": {"1": "walking"}}, "walking"),
        ("recording", {"rms": [5, 1]}, "low < high"),
        ("recording", {"label_s": 60}, "at most input.window_s"),
    ],
)
def test_a_recording_that_does_not_fit_its_spec_is_refused(part: str, values: dict[str, Any], message: str):
    raw = SPEC.model_dump(mode="json")
    raw[part] |= values
    with pytest.raises(SpecError, match=message):
        DiseaseSpec.from_json(json.dumps(raw))


def test_a_shape_that_is_not_the_window_is_refused(tmp_path: Path):
    with pytest.raises(SpecError, match="204 samples"):
        run({"S1R01.txt": text(rows(12))}, tmp_path, fog(input={"shape": [9, 128]}))


@pytest.mark.skipif(not (DATA / "parkinson-daphnet").exists(), reason="the Daphnet recordings are not on this machine (DXFLOW_DATA)")
def test_the_real_recordings(tmp_path: Path):
    """Seven files of five subjects as they come; the thigh of S03R03 is dead throughout, and that is all that is refused."""
    spec = fog(limits={"quarantine_share": 0.15})
    ingest(spec, str(DATA / "parkinson-daphnet"), dataset=tmp_path / "dataset", features=tmp_path / "features", workers=1)
    found = Dataset(tmp_path / "dataset")
    subjects = {PSEUDONYMISER.id("patient", f"S0{n}"): n for n in (1, 2, 3, 6, 7)}
    counts = found.manifest.groupby("group_id")["label"].agg(["size", "sum"]).rename(index=subjects).to_dict("index")
    assert {n: (c["size"], c["sum"]) for n, c in counts.items()} == {1: (349, 20), 2: (1103, 141), 3: (200, 28), 6: (236, 0), 7: (349, 14)}
    assert set(found.quarantine["reason"]) == {"a channel that never changes"}
    assert found.quarantine["file"].nunique() == 1


def test_memory_does_not_grow_with_the_recording():
    """Two hours at 64 Hz in nine channels are 33 MB of numbers; cutting them takes a third of that, most of it one piece of 100 s and its spline."""
    import tracemalloc

    block, blocks = 4096, 112

    def flow(blocks: int) -> Iterable[Stretch]:
        for n in range(blocks):
            seconds = (n * block + np.arange(block)) / 64
            yield Stretch(seconds, np.sin(seconds)[:, None] * np.ones(9), np.zeros(block, np.int64), starts=n == 0)

    list(windows(flow(1), Geometry(SPEC), 64.0))  # what is imported on the way does not count
    tracemalloc.start()
    count = sum(1 for _ in windows(flow(blocks), Geometry(SPEC), 64.0))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == (int((blocks * block - 1) / 64 * 40) - 203) // 51 + 1
    assert peak < blocks * block * 9 * 8 / 3


def test_what_a_head_says_and_nobody_can_read_is_told_beside_how_much_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of two recordings one has a date that is none of ISO 8601; both are judged to the same second."""
    heads = {"S01R01.csv": "# acquired_at: 03.11.2026\n", "S02R01.csv": "# acquired_at: 2026-11-03T10:15\n"}
    found = run({name: text(rows(30), head) for name, head in heads.items()}, tmp_path)
    notes = found.info["provenance"]["notes"]
    assert notes[DATE] == 1
    assert notes["windows"] == len(found)
    assert notes["ms recorded"] == pytest.approx(60_000, abs=40)  # the last sample's own length
    assert f"1 {DATE}" in capsys.readouterr().out
