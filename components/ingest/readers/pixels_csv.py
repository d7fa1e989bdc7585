"""A table of pixels, one image a row, in the layout of HAM10000's `hmnist_8_8_L.csv`; beside it may lie a table of what is known of each row.

The table of pixels has columns `pixel0000`, `pixel0001`, ... row by row from the upper left corner, colours of a pixel side by side, whole
numbers from 0 to 255. The other table, if there is one, has as many rows, in the same order. Both tables' other columns mean what they mean to
reader `image-csv`: `label`, groups, device, split. Rows that cannot be used are named by the table of pixels and their line.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import zip_longest

from components.core.errors import DataError, SpecError
from components.core.imaging.errors import NotUsable
from components.core.pixel_table import PIXEL, image_of, pixel_columns
from components.ingest import remarks
from components.ingest.deidentify import word_hashes
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected, pieces
from components.ingest.readers.image_csv import group_columns, label_of, label_rule, person_of, row_facts
from components.ingest.source import Source
from components.ingest.tables import lines_of, rows_of

CHUNK = 2048
Row = tuple[int, list[str], list[str]]  # line in the table of pixels, its values, the other table's values


def read(job: Job) -> None:
    """Read both tables side by side, in pieces."""
    spec, source = job.context.spec, job.context.source
    if spec.input.layout != "image" or spec.input.dtype != "uint8":
        got = f"layout '{spec.input.layout}', dtype '{spec.input.dtype}'"
        raise SpecError("reader 'pixels-csv' gives images of bytes", where=f"{spec.name}: input", got=got, allowed="layout image, dtype uint8")
    pixels, facts = _tables(source)
    header, known = _header(source, pixels), _header(source, facts) if facts is not None else []
    pixel_columns(header, spec)
    names = [name for name in header if not PIXEL.fullmatch(name)]
    label_rule(spec, ["", *names, *known])
    rows, others = _count(source, pixels), _count(source, facts) if facts is not None else 0
    if facts is not None and rows != others:
        raise DataError("tables of different length", where="--source", got=f"{rows} rows of pixels, {others} rows about them")
    job.rows = job.announced = rows
    tasks = (Task(f"pixels-{piece[0][0]:09d}", (pixels, header, known, piece)) for piece in pieces(_rows(source, pixels, facts), CHUNK))
    job.stage("images", read_rows, tasks, total=rows, size=lambda t: len(t.payload[3]), file=lambda t: t.payload[0],
              units=lambda t: [(t.payload[0], row[0]) for row in t.payload[3]])  # fmt: skip


def _tables(source: Source) -> tuple[int, int | None]:
    """File numbers of the table of pixels and of the one beside it."""
    tables = [n for n, item in enumerate(source.items) if item.path.lower().endswith(".csv")]
    pixels = [n for n in tables if any(PIXEL.fullmatch(name) for name in _header(source, n))]
    if len(pixels) != 1 or len(tables) > 2:
        got = f"{len(tables)} .csv files, {len(pixels)} with pixels"
        raise DataError("no single table of pixels", where="--source", got=got, allowed="one with columns pixel*, at most one beside it")
    return pixels[0], next((n for n in tables if n != pixels[0]), None)


def _header(source: Source, table: int) -> list[str]:
    try:
        with lines_of(source, table) as handle:
            header = [name.strip().lower() for name in next(csv.reader(handle), [])]
    except csv.Error:
        raise DataError("not a CSV table", where="--source") from None
    if len(set(header)) != len(header):
        raise DataError("columns of one name", where="--source")
    return header


def _count(source: Source, table: int) -> int:
    return sum(1 for _ in rows_of(source, table))


def _rows(source: Source, pixels: int, facts: int | None) -> Iterator[Row]:
    others = rows_of(source, facts) if facts is not None else iter(())
    for first, second in zip_longest(rows_of(source, pixels), others):
        line, values = first or (0, [])
        yield line, values, second[1] if second is not None else []


def read_rows(context: Context, task: Task) -> Outcome:
    """The images of some rows."""
    pixels, header, known, rows = task.payload
    out = Outcome()
    spec, pseudonymiser = context.spec, context.pseudonymiser
    places = pixel_columns(header, spec)
    plain = [(name, place) for place, name in enumerate(header) if not PIXEL.fullmatch(name)]
    label = label_rule(spec, ["", *(name for name, _ in plain), *known])
    words: set[str] = set()
    persons: set[str] = set()
    with Arrays(context, task, out) as arrays:
        for line, values, about in rows:
            try:
                if len(values) < len(header) or len(about) < len(known):
                    raise NotUsable("fewer values than columns")
                row = dict(zip(known, about, strict=False)) | {name: values[place] for name, place in plain}
                facts = row_facts(spec, row, pseudonymiser, out.notes) | label_of(context, row, label)
                words.update(row[name].strip() for name in group_columns(row))
                persons.add(person_of(row))
                sample = pseudonymiser.id("sample", context.source.items[pixels].path, str(line))
                group = facts.pop("group") or sample
                _, facts["acq_rows"], facts["acq_columns"] = spec.input.shape
                arrays.add(
                    facts | {"sample_id": sample, "group_id": group, "patient_id": facts["patient_id"] or group, "series_id": sample},
                    image_of([values[place] for place in places], spec),
                )
            except NotUsable as reason:
                out.rejected.append(Rejected(pixels, reason.reason, line))
    out.words = word_hashes(words, pseudonymiser)
    out.found += remarks.persons(persons, pixels, pseudonymiser)
    return out
