"""Which sample, which person, which file: nothing is merged, taken twice or lost in silence, whatever names are spelt like."""

from __future__ import annotations

import csv
import os
import unicodedata
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import strategies as st
from PIL import Image

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.imaging.deidentify import iso_time
from components.core.imaging.errors import NotUsable
from components.core.pseudonym import load_pseudonymiser
from components.core.spec import DiseaseSpec
from components.ingest import refused
from components.ingest.deidentify import safe_path
from components.ingest.journal import Journal, Outcome, Rejected
from components.ingest.names import Names
from components.ingest.source import Item, Source, open_source
from components.ingest.step import ingest
from pipelines.quarantine import _rows, quarantine, resolved
from pipelines.sources import source_digest
from tests.ingest.made import KEY, PSEUDONYMISER, ROOT

QUICK = hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True)


def eyes(**limits: Any) -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "retinopathy-screening.toml").model_dump(mode="json")
    raw["input"]["shape"] = [3, 16, 16]
    raw["limits"] |= limits
    return DiseaseSpec.model_validate(raw)


def source(folder: Path, files: list[str], rows: list[list[str]], header: str = "image,label,patient,device") -> Path:
    (folder / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for file in files:
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(folder / file)
    with open(folder / "labels.csv", "w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([header.split(","), *rows])
    return folder


def run(folder: Path, out: Path, spec: DiseaseSpec | None = None) -> Dataset:
    ingest(spec or eyes(), str(folder), dataset=out / "dataset", features=out / "features", workers=2)
    return Dataset(out / "dataset")


PLAIN = [f"images/e{i:03d}.png" for i in range(24)]
ROWS = [[f, str(i % 2), f"P{i // 2:03d}", f"CAM{i % 2}"] for i, f in enumerate(PLAIN)]


# Names and persons


def test_names_that_differ_in_case_blanks_or_unicode_form_are_as_many_samples(tmp_path: Path):
    names = [
        f"images/{stem}.png" for i in range(3) for stem in (f"e{i}a", f"e{i}A", f"e {i}a", f"e  {i}a", f"é{i}", unicodedata.normalize("NFD", f"é{i}"))
    ]
    found = run(source(tmp_path / "in", names, [[n, str(i % 2), f"P{i}", "C"] for i, n in enumerate(names)]), tmp_path)
    assert len(found) == len(names) == 18
    assert found.manifest["label"].value_counts().to_dict() == {0: 9, 1: 9}
    assert set(found.manifest["sample_id"]) == {PSEUDONYMISER.id("sample", name) for name in names}


def test_a_table_that_composes_finds_the_files_of_a_disk_that_does_not(tmp_path: Path):
    """As macOS writes names; where two files could be meant, none is taken."""
    composed = [f"images/ü{i}.png" for i in range(8)]
    decomposed = [unicodedata.normalize("NFD", name) for name in composed]
    folder = source(tmp_path / "in", decomposed, [[n, str(i % 2), f"P{i}", "C"] for i, n in enumerate(composed)])
    assert set(run(folder, tmp_path).manifest["sample_id"]) == {PSEUDONYMISER.id("sample", name) for name in decomposed}
    names = [unicodedata.normalize("NFD", "ǖ"), "ü\u0304"]  # u with two marks, three ways to spell it
    listed = Source("/", [Item(name, 1, "") for name in names])
    assert [listed.number(name) for name in names] == [0, 1]
    with pytest.raises(NotUsable, match="several files have"):
        listed.number(unicodedata.normalize("NFC", "ǖ"))


def test_one_person_spelt_in_two_unicode_forms_is_one_group(tmp_path: Path):
    rows = [[f, str(i % 2), unicodedata.normalize("NFC" if i % 2 else "NFD", f"Müller{i // 2}"), "C"] for i, f in enumerate(PLAIN)]
    found = run(source(tmp_path / "in", PLAIN, rows), tmp_path)
    assert found.manifest["group_id"].nunique() == 12
    assert found.manifest.groupby("group_id")["split"].nunique().max() == 1


def test_persons_that_differ_in_case_alone_are_two_and_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    rows = [[f, str(i % 2), "P" * (i % 2) + "p" * (1 - i % 2) + str(i // 4), "C"] for i, f in enumerate(PLAIN)]
    found = run(source(tmp_path / "in", PLAIN, rows), tmp_path)
    assert found.manifest["group_id"].nunique() == 12
    assert "6 ids of persons that differ from another's in case or blanks alone" in capfd.readouterr().out


def test_two_samples_with_one_id_are_an_error_with_their_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from components.ingest.readers import image_csv

    def colliding(job: Any) -> None:
        job.journal.record("t", Outcome(samples=[{"sample_id": "a"}, {"sample_id": "a"}, {"sample_id": "b"}]))

    monkeypatch.setattr(image_csv, "read", colliding)
    with pytest.raises(DataError, match="samples that share an id with another; got 1;"):
        run(source(tmp_path / "in", PLAIN, ROWS), tmp_path)


@QUICK
@hypothesis.given(st.lists(st.text(st.sampled_from("aAbée\u0301 "), max_size=4), max_size=6), st.text(st.sampled_from("aAbée\u0301 "), max_size=4))
def test_a_name_is_found_as_it_is_or_by_case_alone_where_one_could_be_meant(names: list[str], asked: str):
    found = Names[int]()
    for n, name in enumerate(names):
        found.add(name, n)
    plain = [unicodedata.normalize("NFC", name) for name in names]
    own = unicodedata.normalize("NFC", asked)
    alike = {name for name in plain if name.casefold() == own.casefold()}
    meant = own if own in plain else alike.pop() if len(alike) == 1 else None
    assert found.of(asked) == [n for n, name in enumerate(plain) if name == meant]


# Rows against samples


def test_rows_that_contradict_each_other_are_named_and_in_no_split(tmp_path: Path):
    """Equal repeats are noted, and one of them is used; what differs in a column that is not read is equal."""
    contrary = [[f, str(1 - i % 2), f"P{i // 2:03d}", f"CAM{i % 2}"] for i, f in enumerate(PLAIN[:5])]
    folder = source(tmp_path / "in", PLAIN, [*ROWS, *contrary, *ROWS[10:13]])
    found = run(folder, tmp_path, eyes(quarantine_share=1))
    assert len(found) == 19
    assert not set(found.manifest["sample_id"]) & {PSEUDONYMISER.id("sample", name) for name in PLAIN[:5]}
    assert found.quarantine["reason"].value_counts().to_dict() == {
        "an image with rows that contradict each other": 10,
        "a row that repeats another one": 3,
    }
    assert sorted(found.quarantine["offset"]) == [2, 3, 4, 5, 6, *range(26, 31), 31, 32, 33]
    with pytest.raises(DataError, match=r"10 of 32 \(31.2%\): an image with rows that contradict each other \(10\)"):
        run(folder, tmp_path / "refused")


def test_a_refused_ingest_keeps_its_list_and_the_owner_of_the_key_can_read_it(tmp_path: Path, own_home: Path):
    rows = [
        *ROWS,
        ["images/absent.png", "0", "P", "C"],
        ["e003.png", "0", "P", "C"],
        ["images/e004", "0", "P", "C"],
        ["images/e005.png", "7", "P", "C"],
    ]
    folder = source(tmp_path / "in", PLAIN, rows)
    (folder / PLAIN[3]).write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        run(folder, tmp_path, eyes(quarantine_share=0.01))
    (kept,) = (own_home / "refused").iterdir()
    assert f"all of them in {kept}" in str(caught.value)
    assert "6 of 28 (21.4%)" in str(caught.value)
    assert PLAIN[3] not in kept.read_text()
    found = {(row["file"], row["offset"]): row["reason"] for row in resolved(str(folder), kept)}
    assert found == {
        (PLAIN[3], None): "not an image, or a damaged one",
        ("labels.csv", 26): "a row without its image",
        ("labels.csv", 27): "a row without its image: a file of this name lies in another folder",
        ("labels.csv", 28): "a row without its image: the name lacks its suffix",
        ("labels.csv", 7): "an image with rows that contradict each other",
        ("labels.csv", 29): "an image with rows that contradict each other",
    }


def test_a_list_of_what_was_refused_takes_rows_with_and_without_a_place(own_home: Path):
    """Two files of one name, in two spellings of a disk, can fail for one reason, of which one knows where."""
    rows = [{"file": "ct/path-1", "reason": "r", "offset": offset} for offset in (12, None, 3)]
    path = refused.keep("x", "0123456789", rows)
    assert path.read_text().splitlines() == ["file,reason,offset", "ct/path-1,r,", "ct/path-1,r,3", "ct/path-1,r,12"]
    assert [row["offset"] for row in _rows(path)] == [None, 3, 12]


@pytest.mark.parametrize(
    "content",
    [
        b"file,reason,offset\nx,y,somewhere\n",
        b"file,reason,offset\nx\n",
        b"file,reason,offset\nx,y,1,2\n",
        b"file,reason,offset\n\xff,y,1\n",
        b'file,reason,offset\n"' + b"x" * 200_000 + b'",y,1\n',
    ],
)
@pytest.mark.usefixtures("own_home")
def test_a_list_that_was_edited_is_one_line(tmp_path: Path, content: bytes):
    for name in ("edited.csv", "edited.parquet"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=r"not a list of what ingest refused|not a Parquet file"):
            _rows(tmp_path / name)


def test_a_name_that_no_terminal_can_show_is_told_all_the_same(tmp_path: Path, own_home: Path):
    """Bytes that are no UTF-8, and a bell."""
    odd = [b"caf\xe9.png", b"a\x07\x1b[31mb.png"]
    folder = source(tmp_path / "in", PLAIN, ROWS)
    for name in odd:
        (folder / "images" / os.fsdecode(name)).write_bytes(b"no image")
    pseudonymiser = load_pseudonymiser()[0]
    rows = [{"file": safe_path(f"images/{os.fsdecode(name)}", set(), pseudonymiser), "reason": "r", "offset": None} for name in odd]
    found = CliRunner().invoke(quarantine, [str(folder), str(refused.keep("x", "0" * 8, rows))])
    assert found.exit_code == 0, found.exception
    assert "caf" in found.output
    assert "\x07" not in found.output
    assert "\x1b" not in found.output
    assert found.output.count("images/") == 2


def test_a_reason_counts_each_unit_once(tmp_path: Path):
    journal = Journal(tmp_path)
    journal.record(
        "t", Outcome(rejected=[Rejected(1, "b"), Rejected(1, "a"), Rejected(2, "b", 3), Rejected(2, "b", 4), Rejected(3, "c", skipped=True)])
    )
    assert journal.reasons("file") == [("a", 1, False), ("b", 1, False), ("c", 1, True)]
    assert journal.reasons("row") == [("b", 2, False), ("a", 1, False), ("c", 1, True)]
    assert (journal.damaged("file"), journal.refused("file"), journal.damaged("row")) == (2, 3, 3)
    journal.close()


NAMES = st.text(st.sampled_from("aAé\u0301 _"), min_size=1, max_size=3).filter(lambda t: t.strip(". ") == t)


@hypothesis.settings(max_examples=12, deadline=None, database=None, derandomize=True)
@hypothesis.given(st.data())
def test_every_row_is_a_sample_or_has_a_reason(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    """Files and rows made up: absent, damaged, twice, contradicting, mislabelled, too short; counted by hand."""
    from components.ingest.job import Context, Job
    from components.ingest.readers.image_csv import read

    folder, work = tmp_path_factory.mktemp("rows"), tmp_path_factory.mktemp("work")
    names = [f"images/{name}.png" for name in data.draw(st.lists(NAMES, min_size=1, max_size=8, unique=True))]
    rows = data.draw(
        st.lists(st.tuples(st.sampled_from([*names, "images/absent.png", "é.png"]), st.sampled_from(["0", "1.0", "x", ""])), min_size=1, max_size=20)
    )
    source(folder / "in", names, [[name, label, "P", "C"] for name, label in rows])
    said: dict[str, list[str]] = {}
    for name, label in rows:
        said.setdefault(name, []).append(label)
    good = {name for name, labels in said.items() if name in names and len(set(labels)) == 1 and labels[0] in ("0", "1.0")}
    listed = open_source(str(folder / "in"))
    journal = Journal(work)
    context = Context(eyes(), listed, PSEUDONYMISER, work)
    with _Here(context) as workers:
        job = Job(context, journal, workers)
        read(job)
    assert {row["sample_id"] for _, _, row in journal.samples()} == {PSEUDONYMISER.id("sample", name) for name in good}
    assert job.announced == len(rows) == journal.count() + sum(n for _, n, _ in journal.reasons("row"))
    journal.close()


class _Here:
    """Tasks in this process: what is under test is the reader."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None: ...

    def map(self, function: Any, tasks: Any) -> Any:
        return ((task, function(self._context, task)) for task in tasks)


# Links


def test_links_are_followed_loops_cut_and_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    elsewhere = tmp_path / "elsewhere"
    rows = [[f.replace("images/", "half/") if i >= 12 else f, *rest] for i, (f, *rest) in enumerate(ROWS)]
    folder = source(tmp_path / "in", PLAIN[:12], rows)
    source(elsewhere, PLAIN[12:], [])
    (elsewhere / "labels.csv").unlink()
    (elsewhere / "images" / "up").symlink_to(folder)
    (folder / "half").symlink_to(elsewhere / "images")
    (folder / "again").symlink_to(folder / "images")
    (folder / "self").symlink_to(folder / "self")
    listed = open_source(str(folder))
    assert (listed.links.folders, listed.links.leaving, listed.links.again) == (1, 1, {"again": "images", "half/up": ""})
    assert listed.number("again/e003.png") == listed.number("half/up/again/e003.png") == listed.number("images/e003.png") is not None
    assert sum(item.path.endswith(".png") for item in listed.items) == 24
    found = run(folder, tmp_path)
    assert len(found) == 24
    assert found.info["provenance"]["source"]["links"] == {"folders": 1, "leaving": 1, "again": 2}
    out = capfd.readouterr().out
    assert "of the source 2 links lead to folders that are read under another name already" in out
    assert "of the source 1 links lead nowhere" in out


def test_what_is_behind_a_link_is_in_the_key(tmp_path: Path):
    """Also where its size and time of change are what they were."""
    (tmp_path / "in").mkdir()
    real = tmp_path / "real.csv"
    real.write_text("a,1\n")
    (tmp_path / "in" / "data.csv").symlink_to("../real.csv")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "beside")
    (tmp_path / "beside").mkdir()
    first = source_digest(str(tmp_path / "in"))
    assert source_digest(str(tmp_path / "in")) == first
    times = real.stat()
    real.write_text("a,2\n")
    os.utime(real, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = source_digest(str(tmp_path / "in"))
    (tmp_path / "new.csv").write_text("a,3\n")
    os.utime(tmp_path / "new.csv", ns=(times.st_atime_ns, times.st_mtime_ns))
    os.replace(tmp_path / "new.csv", real)
    third = source_digest(str(tmp_path / "in"))
    (tmp_path / "beside" / "x").write_text("")
    assert len({first, second, third, source_digest(str(tmp_path / "in"))}) == 4
    assert source_digest(str(tmp_path / "in" / "data.csv")) == source_digest(str(tmp_path / "in" / "data.csv"))


# Dates, labels, the split


def test_dates_that_are_no_iso_dates_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    rows = [[*row, f"{i % 28 + 1:02d}.11.2026 10:{i:02d}"] for i, row in enumerate(ROWS)]
    found = run(source(tmp_path / "in", PLAIN, rows, "image,label,patient,device,acquired_at"), tmp_path)
    assert found.manifest["acquired_at"].isna().all()
    assert '"text": "24 acquired_at that is no ISO date, left empty"' in capfd.readouterr().out
    assert found.info["provenance"]["notes"] == {"acquired_at that is no ISO date, left empty": 24}


@pytest.mark.parametrize(
    "text",
    ["2026-11-03", "2026-11-03T10:15", "2026-11-03 10:15:30", "2026-11-03T10:15:30.5Z", "2026-11-03T10:15+01:00", "20261103", "20261103T101530"],
)
def test_an_iso_date_is_read(text: str):
    found = iso_time(text)
    assert found is not None
    assert (found.year, found.month, found.day) == (2026, 11, 3)


@pytest.mark.parametrize(
    "text",
    ["03.11.2026", "11/03/2026", "3 Nov 2026", "1730000000", "1612121200000", "16121212000", "2026-11", "2026", "2026-W45-2", "10112011", "nan"],
)
def test_what_could_mean_two_dates_is_not(text: str):
    assert iso_time(text) is None


def test_labels_as_pandas_writes_them_are_whole_numbers(tmp_path: Path):
    rows = [[f, f"{float(label):.1f}", *rest] for f, label, *rest in ROWS]
    assert run(source(tmp_path / "in", PLAIN, rows), tmp_path).manifest["label"].value_counts().to_dict() == {0: 12, 1: 12}


@pytest.mark.parametrize("folds", [1, 3])
def test_the_same_data_are_divided_alike_under_any_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int):
    folder = source(tmp_path / "in", PLAIN, ROWS)
    raw = eyes().model_dump(mode="json")
    raw["split"] |= {"folds": folds}
    spec = DiseaseSpec.model_validate(raw)
    found: list[dict[str, tuple[object, ...]]] = []
    for n in range(3):
        monkeypatch.setenv("DXFLOW_KEY", f"{n}{KEY}")
        m = run(folder, tmp_path / str(n), spec).manifest
        folds_of = m["fold"].astype(float).fillna(-1)
        found.append({h: (s, f) for h, s, f in zip(m["content_hash"], m["split"], folds_of, strict=True)})
    assert found[0] == found[1] == found[2]
    assert len({s for s, _ in found[0].values()}) > 1
