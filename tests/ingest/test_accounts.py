"""Rows and files read against samples written, in every reader: the difference has reasons whose counts add up.

Faults are made up, and counted by hand.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.ingest.job import Context, Job
from components.ingest.journal import Journal
from components.ingest.readers import kinds
from components.ingest.source import open_source
from components.ingest.workers import CRASHED
from tests.ingest import test_nifti_bids as bids
from tests.ingest import test_pixels_csv as pixels
from tests.ingest.made import PSEUDONYMISER, ROOT

CUT = {"dicom-lidc", "npz", "sensor-csv", "whole-slide"}
"""Readers that cut samples out of files: what they lose is told file by file, see their own tests."""


class Here:
    """Tasks in this process; `crash` names those that take theirs with them."""

    def __init__(self, context: Context, crash: Callable[[str], bool] = lambda key: False) -> None:
        self._context, self._crash = context, crash

    def map(self, function: Any, tasks: Any) -> Any:
        return ((task, CRASHED if self._crash(task.key) else function(self._context, task)) for task in tasks)


@contextmanager
def read(spec: DiseaseSpec, folder: Path, crash: Callable[[str], bool] = lambda key: False) -> Iterator[Job]:
    work = folder.with_name(f"{folder.name}-work")
    work.mkdir()
    journal = Journal(work)
    context = Context(spec, open_source(str(folder)), PSEUDONYMISER, work)
    job = Job(context, journal, Here(context, crash))  # type: ignore[arg-type]
    importlib.import_module(f"components.ingest.readers.{spec.input.reader.replace('-', '_')}").read(job)
    yield job
    journal.close()


def told(job: Job) -> dict[str, int]:
    return {reason: n for reason, n, _ in job.journal.reasons(job.unit)}


def spec_of(disease: str, **changes: Any) -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / f"{disease}.toml").model_dump(mode="json")
    for part, values in changes.items():
        raw[part] |= values
    return DiseaseSpec.model_validate(raw)


def folders(rng: random.Random, folder: Path) -> tuple[DiseaseSpec, int, int]:
    spec = spec_of("alzheimer-slices")
    good = 0
    names = []
    for n in range(30):
        split, label = rng.choice(["train", "val", "test"]), rng.choice([*spec.target.classes, "other"])
        names.append((split, label, rng.choice(["a", "A", " a"]) + str(n // 2)))
    for split, label, name in [*names, ("train", spec.target.classes[0], "x"), ("test", spec.target.classes[0], "x")]:
        path = folder / split / label / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(len(name)).integers(0, 255, (208, 176), dtype=np.uint8)).save(path)
        if rng.random() < 0.2:
            path.write_bytes(b"no image")
    files = [path for path in folder.rglob("*.png")]
    good = sum(path.read_bytes() != b"no image" and path.parent.name != "other" for path in files)
    return spec, len(files), good


def table(rng: random.Random, folder: Path) -> tuple[DiseaseSpec, int, int]:
    spec = spec_of("breast-cytology", input={"reader": "table-csv", "shape": [2], "columns": ["a", "b"], "range": [0, 1000]})
    cells = [(rng.choice(["0", "1.0", "9"]), rng.choice(["1", "2", "x", ""]), str(n)) for n in range(40)]
    folder.mkdir()
    (folder / "t.csv").write_text("label,a,b,patient\n" + "".join(f"{','.join(row)},P\n" for row in cells) + "1,2\n")
    return spec, 41, sum(label != "9" and a in ("1", "2") for label, a, _ in cells)


def shipped(rng: random.Random, folder: Path) -> tuple[DiseaseSpec, int, int]:
    spec = spec_of("breast-cytology", input={"reader": "sklearn-csv", "shape": [2]})
    cells = [(rng.choice(["1", "2", "x"]), str(n), rng.choice(["0", "1", "7"])) for n in range(40)]
    folder.mkdir()
    (folder / "t.csv").write_text(f"40,2,{','.join(spec.target.classes)}\n" + "".join(f"{','.join(row)}\n" for row in cells))
    return spec, 40, sum(a != "x" and label != "7" for a, _, label in cells)


def bytes_of(rng: random.Random, folder: Path) -> tuple[DiseaseSpec, int, int]:
    rows = [[*(rng.choice([1, 2, 999, "x"]) if n % 3 == 0 else 5 for _ in range(6)), rng.choice([0, 4, 77])] for n in range(30)]
    pixels.make(folder, rows, [[f"L{n}", "D"] for n in range(30)])
    return pixels.spec(), 30, sum(row[-1] != 77 and all(v in (1, 2, 5) for v in row[:-1]) for row in rows)


def heads(rng: random.Random, folder: Path) -> tuple[DiseaseSpec, int, int]:
    """A BIDS tree: rows twice, contradicting, absent; volumes damaged, of another sequence, of nobody."""
    people = {f"p{n}": rng.choice(["control", "AD", "unsure"]) for n in range(6)}
    bids.tree(folder, people)
    good = {p for p, word in people.items() if word != "unsure"}
    lines = (folder / "participants.tsv").read_text()
    lines += "sub-p0\t60\t" + people["p0"] + "\n" + "sub-p1\t61\t" + {"control": "AD"}.get(people["p1"], "control") + "\nsub-absent\t1\tAD\n"
    (folder / "participants.tsv").write_text(lines)
    (folder / "sub-p2/anat/sub-p2_T1w.nii.gz").write_bytes(b"")
    bids.save(folder, "sub-p3/anat/sub-p3_T2w.nii.gz", b"x")
    bids.save(folder, "sub-nobody/anat/sub-nobody_T1w.nii.gz", b"x")
    return bids.spec(), 8 + 2, len(good - {"p1", "p2"})  # the rows that are told apart: the repeat and the absent one


def scans(rng: random.Random, folder: Path) -> tuple[DiseaseSpec, int, int]:
    """Rows that name volumes one by one."""
    rows = []
    for n in range(4):
        bids.save(folder, f"scans/{n}.nii.gz", bids.head())
        rows.append(f"scans/{n}.nii.gz,{rng.choice(['control', 'ad'])},person{n}")
    bids.save(folder, "scans/free.nii.gz", b"x")
    wrong = rows[1].replace("control", "mci").replace(",ad", ",mci")
    (folder / "labels.csv").write_text("\n".join(["scan,dx,patient", *rows, rows[0], wrong, "scans/none.nii.gz,ad,x"]))
    return bids.spec(), 7 + 1, 3


MAKERS = {
    "image-folders": folders,
    "table-csv": table,
    "sklearn-csv": shipped,
    "pixels-csv": bytes_of,
    "nifti-bids": heads,
    "nifti-bids, files": scans,
}


def test_every_reader_is_held_to_the_account():
    """image-csv in tests/ingest/test_identity.py."""
    assert set(kinds()) == {name.partition(",")[0] for name in MAKERS} | {"image-csv"} | CUT


@pytest.mark.parametrize("name", sorted(MAKERS))
@pytest.mark.parametrize("seed", range(3))
def test_what_was_read_is_samples_and_reasons(tmp_path: Path, name: str, seed: int):
    spec, announced, good = MAKERS[name](random.Random(seed), tmp_path / "in")
    with read(spec, tmp_path / "in") as job:
        assert job.announced == announced
        assert job.journal.count() == good
        assert sum(told(job).values()) == announced - good
        assert job.journal.collisions() == 0


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_what_a_dying_process_takes_with_it_is_counted_too(tmp_path: Path, name: str):
    spec, announced, _ = MAKERS[name](random.Random(0), tmp_path / "in")
    begun = {"images", "rows", "pixels", "person"}
    with read(spec, tmp_path / "in", lambda key: key.partition("-")[0] in begun) as job:
        if name == "sklearn-csv":  # one task for each table: told as the table
            return
        assert job.journal.count() == 0
        assert sum(told(job).values()) == announced == job.announced


def test_a_table_that_ends_before_it_said_is_no_table(tmp_path: Path):
    spec, _, _ = shipped(random.Random(0), tmp_path / "in")
    text = (tmp_path / "in" / "t.csv").read_text()
    (tmp_path / "in" / "t.csv").write_text("\n".join(text.splitlines()[:-5]))
    with pytest.raises(DataError, match="another length than its first line says; got 35; allowed: 40"), read(spec, tmp_path / "in"):
        pass
