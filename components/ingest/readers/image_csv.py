"""Image files and a table. The table is `labels.csv`, or the only .csv file of the source; its first column is the image's path.

Columns, by name (case does not matter; others are ignored):
    label       class name, another word of the spec for it, or number; else a column named like the positive class (0 or 1), or for
                multi-label one such column per class
    split       train, val (or validation, valid), test
    group       `patient`, `lesion`, `subject` or `slide` (also with `_id`), whichever the spec groups by; all are hashed
    device      `device` or `scanner`, else the spec's `device.key` columns, else the picture's EXIF; hashed. `manufacturer`, `model`, `software`,
                `site` as in DICOM
    acquired_at ISO date or time (2026-11-03, 2026-11-03T10:15), shifted; any other form is left empty and told; `synthetic` 0 or 1
    covariates  `age` in years, `sex`, `localization` or `body_site`: to the feature store's `covariates`, not to the manifest
Rows that cannot be used are named by the table and their line. An image that two rows name is used once where they say the same, and not at all
where they contradict each other.
"""

from __future__ import annotations

import csv
import posixpath
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from components.core.errors import DataError, SpecError
from components.core.imaging.deidentify import camera_identity, device_identity, iso_time, shifted_iso
from components.core.imaging.errors import NotUsable
from components.core.imaging.fit import fit
from components.core.imaging.inflate import MOST_EXPANSION
from components.core.imaging.pictures import Picture, decode_picture
from components.core.labels import class_index, words_of
from components.core.pseudonym import UNKNOWN_DEVICE, Pseudonymiser
from components.core.spec import DiseaseSpec
from components.ingest import remarks
from components.ingest.deidentify import word_hashes
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected, pieces
from components.ingest.source import Source
from components.ingest.study_facts import covariates
from components.ingest.tables import lines_of, rows_of

CHUNK = 256
TABLE_BYTES = 1 << 30
SPLIT_NAMES = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
GROUPS = ("patient", "lesion", "subject", "slide")
CONTRADICTION, REPEAT = "an image with rows that contradict each other", "a row that repeats another one"
OTHERS = "further pictures in one file, not read"


def read(job: Job) -> None:
    """Read the table in pieces, then the images of each piece on all cores."""
    spec, source = job.context.spec, job.context.source
    if spec.input.layout != "image":
        raise SpecError("reader 'image-csv' gives images", where="input.layout", got=spec.input.layout, allowed="image")
    table = _table(source)
    header, count = _columns(source, table)
    label = label_rule(spec, header)
    job.rows = job.announced = count
    left_out = Repeats(job.context, label, header, table).refused()
    job.journal.record_once("repeats", Outcome(rejected=[Rejected(table, *told) for told in left_out.values()]))
    rows = (row for row in rows_of(source, table) if row[0] not in left_out)
    tasks = (Task(f"rows-{piece[0][0]:09d}", (table, header, piece)) for piece in pieces(rows, CHUNK))
    job.stage(
        "images", read_images, tasks, total=count - len(left_out), size=lambda t: len(t.payload[2]), file=lambda t: t.payload[0],
        units=lambda t: [(t.payload[0], line) for line, _ in t.payload[2]],
    )  # fmt: skip


def _table(source: Source) -> int:
    tables = [n for n, item in enumerate(source.items) if item.path.lower().endswith(".csv")]
    named = [n for n in tables if posixpath.basename(source.items[n].path).lower() == "labels.csv"]
    if len(named or tables) != 1:
        raise DataError("no single table of labels", where="--source", got=f"{len(tables)} .csv files", allowed="labels.csv, or one .csv file")
    return (named or tables)[0]


def _columns(source: Source, table: int) -> tuple[list[str], int]:
    """Column names in small letters, and the number of rows."""
    if source.items[table].size > TABLE_BYTES:
        raise DataError("table over 1 GB", where="labels.csv")
    try:
        with lines_of(source, table) as handle:
            lines = csv.reader(handle)
            header = [name.strip().lower() for name in next(lines, [])]
            count = sum(1 for row in lines if row)
    except csv.Error:
        raise DataError("not a CSV table", where="labels.csv") from None
    if len(header) < 2 or len(set(header)) != len(header) or not count:
        raise DataError("not a table of labels", where="labels.csv", got=f"{len(header)} columns, {count} rows", allowed="a header, then rows")
    return header, count


def label_rule(spec: DiseaseSpec, header: list[str]) -> Callable[[dict[str, str]], dict[str, Any]]:
    """How a row becomes `label` or `labels`.

    Raises:
        DataError: No column fits.
    """
    classes = [name.lower() for name in spec.target.classes]
    words = words_of(spec.target)
    if spec.target.kind == "multilabel":
        if missing := [name for name in classes if name not in header]:
            raise DataError("no column for a class", where="labels.csv", got=f"{len(missing)} missing", allowed=", ".join(spec.target.classes))
        return lambda row: {"labels": [_flag(row[name]) for name in classes]}

    def named(row: dict[str, str]) -> dict[str, Any]:
        place = class_index(row["label"], words)
        if place is None or place >= len(classes):
            raise NotUsable("a label outside the spec's classes")
        return {"label": place}

    if "label" in header[1:]:
        return named
    positive = (spec.target.positive or "").lower()
    if spec.target.kind == "binary" and positive in header[1:]:
        index = spec.positive_index
        return lambda row: {"label": index if _flag(row[positive]) else 1 - index}
    raise DataError(
        "no column of labels", where="labels.csv", got=f"{len(header)} columns", allowed="'label'" + (f" or '{positive}'" if positive else "")
    )


def label_of(context: Context, row: dict[str, str], rule: Callable[[dict[str, str]], dict[str, Any]]) -> dict[str, Any]:
    """`label` or `labels` of a row; empty where the set needs none and the row's is blank."""
    return rule(row) if context.labelled or row.get("label", "-").strip() else {}


def _flag(text: str) -> float:
    plain = text.strip().lower()
    if plain in ("1", "1.0", "true", "yes"):
        return 1.0
    if plain in ("0", "0.0", "false", "no"):
        return 0.0
    raise NotUsable("a label outside the spec's classes")


def read_images(context: Context, task: Task) -> Outcome:
    """The images of some rows."""
    table, header, rows = task.payload
    out = Outcome()
    label = label_rule(context.spec, header)
    folder = posixpath.dirname(context.source.items[table].path)
    words: set[str] = set()
    persons: set[str] = set()
    with Arrays(context, task, out) as arrays:
        for line, values in rows:
            file = table
            try:
                if len(values) < len(header):
                    raise NotUsable("fewer values than columns")
                row = dict(zip(header, values, strict=False))
                facts = row_facts(context.spec, row, context.pseudonymiser, out.notes)
                facts |= label_of(context, row, label)
                words.update(row[name].strip() for name in group_columns(row))
                persons.add(person_of(row))
                found = find_image(context.source, folder, values[0])
                if found is None:
                    raise NotUsable(f"a row without its image{context.source.why_absent(values[0].strip())}")
                file, path = found, context.source.items[found].path
                picture = load_picture(context, found, out)
                image = picture.pixels
                if facts["device_key"] == UNKNOWN_DEVICE:
                    facts |= camera_columns(picture, facts, context.pseudonymiser)
                sample = context.pseudonymiser.id("sample", path)
                facts["acq_rows"], facts["acq_columns"] = image.shape[:2]
                group = facts.pop("group") or sample
                arrays.add(
                    facts | {"sample_id": sample, "group_id": group, "patient_id": facts["patient_id"] or group, "series_id": sample},
                    fit(image, context.spec.input),
                )
            except NotUsable as reason:
                out.rejected.append(Rejected(file, reason.reason, line if file == table else reason.offset))
            except OSError:
                out.rejected.append(Rejected(file, "unreadable file"))
    out.words = word_hashes(words, context.pseudonymiser)
    out.found += remarks.persons(persons, table, context.pseudonymiser)
    return out


def find_image(source: Source, folder: str, name: str) -> int | None:
    """The file that a table in `folder` means: by its name as it stands, else without blanks around it and with / for \\."""
    for spelt in dict.fromkeys((name, name.strip().replace("\\", "/"))):
        number = source.number(posixpath.normpath(posixpath.join(folder, spelt)))
        if number is not None:
            return number
    return None


class Repeats:
    """Rows of a table of images that name one image twice: one is enough where they agree, and none can be believed where they do not."""

    def __init__(self, context: Context, label: Callable[[dict[str, str]], dict[str, Any]], header: list[str], table: int) -> None:
        self._context, self._label, self._header, self._table = context, label, header, table
        self._folder = posixpath.dirname(context.source.items[table].path)

    def refused(self) -> dict[int, tuple[str, int, bool]]:
        """{line: (reason, line, skipped)} of every row that is not to be read."""
        seen, twice = set[int](), set[int]()
        for _, values in rows_of(self._context.source, self._table):
            if (number := self._number(values)) is not None:
                (twice if number in seen else seen).add(number)
        rows: dict[int, list[tuple[int, object]]] = defaultdict(list)
        for line, values in rows_of(self._context.source, self._table) if twice else ():
            if (number := self._number(values)) in twice and number is not None:
                rows[number].append((line, self._said(values)))
        found: dict[int, tuple[str, int, bool]] = {}
        for same in rows.values():
            agree = all(said == same[0][1] for _, said in same)
            for line, _ in same[1:] if agree else same:
                found[line] = (REPEAT if agree else CONTRADICTION, line, agree)
        return found

    def _number(self, values: list[str]) -> int | None:
        try:
            return find_image(self._context.source, self._folder, values[0])
        except NotUsable:  # refused when the row is read
            return None

    def _said(self, values: list[str]) -> object:
        """All that a row says of its image; of one that cannot be read, why."""
        if len(values) < len(self._header):
            return "fewer values than columns"
        row = dict(zip(self._header, values, strict=False))
        try:
            return row_facts(self._context.spec, row, self._context.pseudonymiser) | label_of(self._context, row, self._label)
        except NotUsable as reason:
            return reason.reason


def load_picture(context: Context, number: int, out: Outcome) -> Picture:
    """One file of the source; pictures behind it are noted in `out`."""
    context.item(number)
    with context.source.open(number) as handle:
        found = decode_picture(handle, most_pixels=context.spec.limits.pixels_per_image, most_expansion=MOST_EXPANSION)
    if found.others:
        out.notes[OTHERS] = out.notes.get(OTHERS, 0) + found.others
    return found


def camera_columns(picture: Picture, facts: dict[str, Any], pseudonymiser: Pseudonymiser) -> dict[str, Any]:
    """The device of a picture whose row names none: its camera, as EXIF has it. What the row does say stays."""
    camera = camera_identity(pseudonymiser, picture.maker, picture.model)
    return {"device_key": camera.key} | {name: getattr(camera, name) for name in ("manufacturer", "model") if not facts[name]}


def group_columns(row: dict[str, str]) -> list[str]:
    return [name for kind in GROUPS for name in (kind, f"{kind}_id") if name in row]


def person_of(row: dict[str, str]) -> str:
    """The patient or subject of a row, "" where it names none."""
    return next((row[name].strip() for kind in ("patient", "subject") for name in (kind, f"{kind}_id") if row.get(name, "").strip()), "")


def row_facts(spec: DiseaseSpec, row: dict[str, str], pseudonymiser: Pseudonymiser, notes: dict[str, int] | None = None) -> dict[str, Any]:
    """Manifest columns of one row, and `group` (None where the spec has no grouping).

    Args:
        notes: Counts what the row says and nobody can read, by the names of `components/ingest/remarks.py`.
    """
    grouping = spec.split.grouping
    ids = {kind: next((row[name].strip() for name in (kind, f"{kind}_id") if row.get(name, "").strip()), "") for kind in GROUPS}
    if grouping != "none" and not ids[grouping]:
        raise NotUsable(f"no {grouping}, which the grouping needs")
    key = tuple(row.get(name.lower(), "").strip() for name in spec.device.key)
    named = next((row[name].strip() for name in ("device", "scanner", "device_key") if row.get(name, "").strip()), "")
    if named:
        key = (named,)
    identity = device_identity(
        pseudonymiser, key=key, manufacturer=row.get("manufacturer", ""), model=row.get("model", ""), software=row.get("software", ""),
        site=row.get("site", ""),
    )  # fmt: skip
    split = SPLIT_NAMES.get(row.get("split", "").strip().lower())
    if spec.split.given and split is None:
        raise NotUsable("no split, which the spec takes as given")
    person = person_of(row)
    when = iso_time(row.get("acquired_at", ""))
    if notes is not None:
        for name in remarks.unread(row, dated=when is not None):
            notes[name] = notes.get(name, 0) + 1
    return {
        "group": pseudonymiser.id(grouping if grouping != "subject" else "patient", ids[grouping]) if grouping != "none" else None,
        "patient_id": pseudonymiser.id("patient", person) if person else None,
        **identity.columns(shifted_iso(when, pseudonymiser)),
        "given_split": split,
        **covariates(row),
        "synthetic": row.get("synthetic", "").strip().lower() in ("1", "true", "yes"),
    }
