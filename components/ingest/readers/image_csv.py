"""Image files and a table. The table is `labels.csv`, or the only .csv file of the source; its first column is the image's path.

Columns, by name (case does not matter; others are ignored):
    label       class name, another word of the spec for it, or number; else a column named like the positive class (0 or 1), or for
                multi-label one such column per class
    split       train, val (or validation, valid), test
    group       `patient`, `lesion`, `subject` or `slide` (also with `_id`), whichever the spec groups by; all are hashed
    device      `device` or `scanner`, else the spec's `device.key` columns, else the picture's EXIF; hashed. `manufacturer`, `model`, `software`,
                `site` as in DICOM
    acquired_at ISO date or time, shifted; `synthetic` 0 or 1
    covariates  `age` in years, `sex`, `localization` or `body_site`: to the feature store's `covariates`, not to the manifest
Rows that cannot be used are named by the table and their line.
"""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Callable
from typing import Any

from components.core.errors import DataError, SpecError
from components.core.imaging.deidentify import camera_identity, device_identity, iso_time, shifted_iso
from components.core.imaging.errors import NotUsable
from components.core.imaging.fit import fit
from components.core.imaging.inflate import MOST_EXPANSION
from components.core.imaging.pictures import Picture, decode_picture
from components.core.pseudonym import UNKNOWN_DEVICE, Pseudonymiser
from components.core.spec import DiseaseSpec
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
OTHERS = "further pictures in one file, not read"


def read(job: Job) -> None:
    """Read the table in pieces, then the images of each piece on all cores."""
    spec, source = job.context.spec, job.context.source
    if spec.input.layout != "image":
        raise SpecError("reader 'image-csv' gives images", where="input.layout", got=spec.input.layout, allowed="image")
    table = _table(source)
    header, count = _columns(source, table)
    label = label_rule(spec, header)
    job.rows = count
    tasks = (Task(f"rows-{piece[0][0]:09d}", (table, header, piece)) for piece in pieces(rows_of(source, table), CHUNK))
    assert label is not None
    job.stage("images", read_images, tasks, total=count, size=lambda t: len(t.payload[2]), file=lambda t: t.payload[0])


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
    places = {name: i for i, name in enumerate(classes)} | {word.lower(): classes.index(name.lower()) for word, name in spec.target.aliases.items()}
    if spec.target.kind == "multilabel":
        if missing := [name for name in classes if name not in header]:
            raise DataError("no column for a class", where="labels.csv", got=f"{len(missing)} missing", allowed=", ".join(spec.target.classes))
        return lambda row: {"labels": [_flag(row[name]) for name in classes]}

    def named(row: dict[str, str]) -> dict[str, Any]:
        text = row["label"].strip().lower()
        place = places.get(text, int(text) if text.isdecimal() and len(text) < 6 else -1)
        if not 0 <= place < len(classes):
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
    with Arrays(context, task, out) as arrays:
        for line, values in rows:
            file = table
            try:
                if len(values) < len(header):
                    raise NotUsable("fewer values than columns")
                row = dict(zip(header, values, strict=False))
                facts = row_facts(context.spec, row, context.pseudonymiser)
                facts |= label(row) if context.labelled or row.get("label", "-").strip() else {}
                words.update(row[name].strip() for name in group_columns(row))
                path = posixpath.normpath(posixpath.join(folder, values[0].strip().replace("\\", "/")))
                found = context.source.number(path)
                if found is None:
                    raise NotUsable("a row without its image")
                file = found
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
    return out


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


def row_facts(spec: DiseaseSpec, row: dict[str, str], pseudonymiser: Pseudonymiser) -> dict[str, Any]:
    """Manifest columns of one row, and `group` (None where the spec has no grouping)."""
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
    person = ids["patient"] or ids["subject"]
    return {
        "group": pseudonymiser.id(grouping if grouping != "subject" else "patient", ids[grouping]) if grouping != "none" else None,
        "patient_id": pseudonymiser.id("patient", person) if person else None,
        **identity.columns(shifted_iso(iso_time(row.get("acquired_at", "")), pseudonymiser)),
        "given_split": split,
        **covariates(row),
        "synthetic": row.get("synthetic", "").strip().lower() in ("1", "true", "yes"),
    }
