"""Names and links made up by the thousand: no two files become one sample, no row is lost without a reason, no person stands in two splits.

`python -m tests.soak.names [sources]`: each source is a folder of small pictures with a table. Names differ in case, blanks, Unicode form;
persons are spelt composed and decomposed; rows are absent, twice, contradicting; folders are real, linked, in loops.
What must come out is counted beside it.
"""

from __future__ import annotations

import csv
import os
import random
import sys
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from components.ingest.deidentify import path_pseudonym, safe_path
from components.ingest.job import Context, Job
from components.ingest.journal import Journal
from components.ingest.readers.image_csv import read
from components.ingest.source import open_source
from pipelines.erase_plan import keys_of

SOURCES = 1000
ALPHABET = ["a", "A", "b", "é", "e\u0301", "ü", "u\u0308", "ß", " ", "  ", "_", "1", "٣", "ñ", "İ", "中", "\u200b"]
PSEUDONYMISER = Pseudonymiser(b"a key that only the soak knows")
ROOT = Path(__file__).parents[2]


class Here:
    """Tasks in this process."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def map(self, function: Any, tasks: Any) -> Any:
        return ((task, function(self._context, task)) for task in tasks)


def spec() -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "retinopathy-screening.toml").model_dump(mode="json")
    raw["input"]["shape"] = [3, 8, 8]
    return DiseaseSpec.model_validate(raw)


def word(rng: random.Random) -> str:
    return "x" + "".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 4))) + "y"


def tree(rng: random.Random, root: Path, beside: Path) -> list[str]:
    """Write pictures; their paths in the source. Some folders are links to folders beside it, and loops lead back."""
    folders = ["images"]
    (root / "images").mkdir(parents=True)
    for n in range(rng.randint(0, 3)):
        name = f"{word(rng)}{n}"
        (beside / str(n)).mkdir(parents=True)
        (root / name).symlink_to(beside / str(n))
        (beside / str(n) / "up").symlink_to(rng.choice([root, beside]))
        folders.append(name)
    paths = sorted({f"{rng.choice(folders)}/{word(rng)}.png" for _ in range(rng.randint(1, 14))})
    for n, path in enumerate(paths):
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(root / path)
    return paths


def table(rng: random.Random, root: Path, paths: list[str]) -> tuple[list[list[str]], dict[str, str]]:
    """Write labels.csv; its rows, and {path: person} of all pictures."""
    persons = [f"{word(rng)}{n}".replace("\u200b", "") for n in range(4)]  # what does not print is nobody's id
    of = {path: rng.choice(persons) for path in paths}
    rows = []
    for path in paths:
        label = rng.choice("01")
        for _ in range(rng.choice([1, 1, 1, 1, 2, 3])):
            person = unicodedata.normalize(rng.choice(["NFC", "NFD"]), of[path])
            rows.append([path, rng.choice([label, label, label, label, "1.0", "?"]), person])
    rows += [[f"images/{word(rng)}{word(rng)}absent.png", "0", persons[0]] for _ in range(rng.randint(0, 2))]
    rng.shuffle(rows)
    with open(root / "labels.csv", "w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows([["image", "label", "patient"], *rows])
    return rows, of


def expected(rows: list[list[str]], paths: list[str]) -> set[str]:
    """Pictures whose rows all say the same, and something that is a label."""
    said: dict[str, set[str]] = {}
    for path, label, _ in rows:
        said.setdefault(path, set()).add({"1.0": "1"}.get(label, label))
    return {path for path in paths if said[path] in ({"0"}, {"1"})}


def one(seed: int, what: DiseaseSpec) -> Counter[str]:
    """One source. Raises AssertionError where something was merged, lost, or told wrongly."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="dxflow-soak-") as folder:
        root, work = Path(folder) / "in", Path(folder) / "work"
        work.mkdir()
        paths = tree(rng, root, Path(folder) / "beside")
        rows, of = table(rng, root, paths)
        listed = open_source(str(root))
        assert sorted(i.path for i in listed.items if i.path.endswith(".png")) == paths, (seed, "listing")
        journal = Journal(work)
        job = Job(Context(what, listed, PSEUDONYMISER, work), journal, Here(Context(what, listed, PSEUDONYMISER, work)))  # type: ignore[arg-type]
        read(job)
        samples = {row["sample_id"]: row for _, _, row in journal.samples()}
        good = expected(rows, paths)
        assert set(samples) == {PSEUDONYMISER.id("sample", path) for path in good}, (seed, "samples")
        told = journal.reasons("row")
        assert journal.count() + sum(n for _, n, _ in told) == len(rows) == job.announced, (seed, "rows")
        for path in good:
            group = samples[PSEUDONYMISER.id("sample", path)]["group_id"]
            assert group in keys_of(unicodedata.normalize("NFD", of[path]), PSEUDONYMISER), (seed, "erase")
            assert group == PSEUDONYMISER.id("patient", of[path]), (seed, "person")
        clear = {path_pseudonym(part, PSEUDONYMISER): part for path in paths for part in path.split("/")}
        for path in paths:
            safe = safe_path(path, set(), PSEUDONYMISER)
            assert path.rsplit("/", 1)[1] not in safe, (seed, "clear")
            assert "/".join(clear.get(part, part) for part in safe.split("/")) == path, (seed, "resolved")
        journal.close()
        links = listed.links.folders + len(listed.links.again)
        return Counter({"rows": len(rows), "samples": len(samples), "refused": sum(n for _, n, skipped in told if not skipped), "links": links})


def main() -> int:
    """Exit code 1 where a source came out wrong."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else SOURCES
    what, total, wrong = spec(), Counter[str](), 0
    with open(os.devnull, "w") as nowhere:
        for seed in range(count):
            stdout, sys.stdout = sys.stdout, nowhere
            try:
                total += one(seed, what)
            except AssertionError as error:
                wrong += 1
                print(f"wrong: {error}", file=sys.stderr)
            finally:
                sys.stdout = stdout
    print(f"{count} sources, {wrong} wrong: {', '.join(f'{n} {name}' for name, n in total.items())}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
