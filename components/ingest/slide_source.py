"""What lies around the slides of a source: annotations, a table of labels, a reader's scores, folders that name the split.

    training/normal/normal_001.tif  training/tumor/tumor_001.tif  training/lesion_annotations/tumor_001.xml
    testing/images/test_001.tif     testing/lesion_annotations/   testing/reference.csv

    mpp.csv                                            any folder: a slide's name, microns of its pixel

as in CAMELYON16; `train` and `test` name the folders as well. An annotation belongs to the slide of the same name, under the same split.
"""

from __future__ import annotations

import csv
import hashlib
import io
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

from components.core.errors import DataError
from components.core.imaging.errors import NotUsable
from components.core.imaging.slides import SUFFIXES
from components.core.spec import DiseaseSpec
from components.ingest.names import Names
from components.ingest.source import Source

SPLITS = {"training": "train", "train": "train", "testing": "test", "test": "test"}
TABLES = ("reference.csv", "gt.csv")
TUMOUR = frozenset(("tumor", "tumour", "positive", "metastasis", "1"))
NORMAL = frozenset(("normal", "negative", "0"))
TABLE_BYTES = 64 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """One slide file.

    Args:
        number: Of the file in the source's listing.
        split: `train` or `test` where a folder says so, else "".
        annotation: Number of its XML, None without one.
        label: 1 for a slide with metastases, 0 for one without, -1 for a word of unknown meaning; None where nothing says it.
        reader_score: Of a human reader, None where there is none.
        contradicting: Two annotations, or rows of tables that do not say the same: none of it can be believed.
        mpp: Microns of a pixel, as `mpp.csv` tells it for slides that do not.
    """

    number: int
    split: str
    annotation: int | None
    label: int | None
    reader_score: float | None
    contradicting: bool = False
    mpp: float | None = None


def slides(source: Source) -> Iterator[Found]:
    """Every file that is meant to be a slide; masks (`*_mask.tif`) and tables are none."""
    annotations: dict[str, Names[int]] = defaultdict(Names)
    labels: dict[str, Names[int]] = defaultdict(Names)
    scores: dict[str, Names[float]] = defaultdict(Names)
    sizes: dict[str, Names[float]] = defaultdict(Names)
    for number, item in enumerate(source.items):
        name = posixpath.basename(item.path).lower()
        if name.endswith(".xml"):
            annotations[split_of(item.path)].add(_stem(item.path), number)
        elif name in TABLES:
            for key, word in _table(source, number, name):
                if not _heading(word):
                    labels[split_of(item.path)].add(key, _label(word))
        elif (numbers := {"reader.csv": scores, "mpp.csv": sizes}.get(name)) is not None:
            for key, word in _table(source, number, name):
                if _is_number(word):
                    numbers[split_of(item.path)].add(key, float(word))
    for number, item in enumerate(source.items):
        if not item.path.lower().endswith(SUFFIXES) or is_mask(item.path):
            continue
        split, stem = split_of(item.path), _stem(item.path)
        drawn, label = _said(annotations, split, stem), _said(labels, split, stem)
        score, mpp = _said(scores, split, stem), _said(sizes, split, stem)
        if not label and (folder := posixpath.basename(posixpath.dirname(item.path)).lower()) in NORMAL | TUMOUR:
            label = [_label(folder)]
        contradicting = len(drawn) > 1 or any(len(set(said)) > 1 for said in (label, score, mpp))
        yield Found(number, split, _first(drawn), _first(label), _first(score), contradicting, _first(mpp))


def _said(names: dict[str, Names[T]], split: str, stem: str) -> list[T]:
    """All that is said of a slide, under its own split or else beside the splits."""
    return names[split].of(stem) or names[""].of(stem)


def _first(said: list[T]) -> T | None:
    return said[0] if said else None


def split_of(path: str) -> str:
    """`train`, `test`, or "" by the folders of a path."""
    return next((SPLITS[part.lower()] for part in path.split("/")[:-1] if part.lower() in SPLITS), "")


def is_mask(path: str) -> bool:
    """Whether a file is a drawing over a slide and not one."""
    return _stem(path).lower().endswith(("_mask", "_evaluation_mask"))


def truth(found: Found, outlines: int | None) -> int:
    """The slide's label, 1 with metastases.

    Args:
        outlines: Tumour outlines in its XML, None without one.

    Raises:
        NotUsable: Table and annotation contradict each other, or the table says tumour and nobody has drawn where.
    """
    if found.contradicting:
        raise NotUsable("a slide with two annotations or with rows that contradict each other")
    if found.label == -1:
        raise NotUsable("a slide label that is neither tumour nor normal")
    if found.label == 1 and not outlines:
        raise NotUsable("a tumour slide without annotations: its tiles have no labels")
    if found.label == 0 and outlines:
        raise NotUsable("annotations on a slide that is called normal")
    return int(bool(outlines))


def assign(slides: list[tuple[str, str, str, int]], spec: DiseaseSpec, names: dict[str, str]) -> dict[str, str]:
    """{group: split}; `test` stays where folders say so, the rest is dealt by a hash of its name, the same mix of devices and labels in each.

    Args:
        slides: (group, split of the folders, device, label).
        names: {group: its slide's path}, which is never written; so the same slides are divided alike whatever key made their pseudonyms.
    """
    rule = spec.split
    order = {
        group: hashlib.sha256(f"dxflow/split/{spec.name}/{public(name)}".encode("utf-8", "surrogatepass")).hexdigest()
        for group, name in names.items()
    }
    strata: dict[tuple[str, str, int], list[str]] = {}
    for group, split, device, label in slides:
        strata.setdefault((split, device, label), []).append(group)
    given: dict[str, str] = {}
    carried: dict[str, dict[str, float]] = {}
    for (split, _, _), groups in sorted(strata.items(), key=lambda pair: (pair[0][0], min(order[group] for group in pair[1]))):
        if split == "test":
            given |= dict.fromkeys(groups, "test")
            continue
        kinds = ("train", "val") if split == "train" else ("train", "val", "test")
        total = sum(getattr(rule, name) for name in kinds)
        shares = {name: getattr(rule, name) / total for name in kinds} if total else {}
        if not shares:
            raise DataError("no share of the training slides for training", where="split", got=0)
        debt = carried.setdefault(split, dict.fromkeys(kinds, 0.0))  # over strata, so that many small ones do not round the same way
        for group in sorted(groups, key=order.__getitem__):
            for name in kinds:
                debt[name] += shares[name]
            chosen = max(kinds, key=lambda name: debt[name])
            debt[chosen] -= 1
            given[group] = chosen
    return given


def public(path: str) -> str:
    """A slide's name as its draws know it: the same on file systems that spell names in other Unicode forms."""
    return unicodedata.normalize("NFC", path)


def _table(source: Source, number: int, name: str) -> Iterator[tuple[str, str]]:
    """(slide's name, second column) of every row."""
    if source.items[number].size > TABLE_BYTES:
        raise DataError("table over 64 MB", where=name)
    try:
        with io.TextIOWrapper(source.open(number), encoding="utf-8-sig", newline="", errors="replace") as handle:
            for row in csv.reader(handle):
                if len(row) >= 2 and row[0].strip():
                    yield _stem(row[0].strip().replace("\\", "/")), row[1].strip().lower()
    except (csv.Error, OSError):
        raise DataError("not a CSV table", where=name) from None


def _heading(word: str) -> bool:
    return word in ("label", "type", "class", "stage", "diagnosis", "tumor/normal")


def _label(word: str) -> int:
    return 1 if word in TUMOUR else 0 if word in NORMAL else -1


def _is_number(word: str) -> bool:
    try:
        return abs(float(word)) < 1e6
    except ValueError:
        return False


def _stem(path: str) -> str:
    stem, suffix = posixpath.splitext(posixpath.basename(path))
    return stem if suffix.lower() in (*SUFFIXES, ".xml") else stem + suffix
