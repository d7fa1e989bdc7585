"""A table: one .csv file with a header and one row per sample.

Feature columns are those that `input.columns` names, in that order; without it, every column that has no other meaning and holds a number in
its first row, from left to right. Label, split, group, device and date columns are those of reader `image-csv`. A row with a missing value,
a word or an infinity among its features goes to quarantine, named by its line. A constant column is told as a warning. Dialects of CSV are those of
`components/core/text_table.py`.
"""

from __future__ import annotations

import csv

import numpy as np

from components.core.errors import DataError, SpecError
from components.core.feature_table import feature_columns, feature_values
from components.core.imaging.errors import NotUsable
from components.core.step import emit
from components.ingest import remarks
from components.ingest.deidentify import word_hashes
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected, pieces
from components.ingest.readers.image_csv import group_columns, label_rule, person_of, row_facts
from components.ingest.source import Source
from components.ingest.tables import lines_of, rows_of

CHUNK = 4096


def read(job: Job) -> None:
    """Look at the columns once, then read the rows in pieces."""
    spec, source = job.context.spec, job.context.source
    if spec.input.layout != "table":
        raise SpecError("reader 'table-csv' gives tables", where="input.layout", got=spec.input.layout, allowed="table")
    tables = [n for n, item in enumerate(source.items) if item.path.lower().endswith(".csv") and item.size > 0]
    if len(tables) != 1:
        raise DataError("no single table", where="--source", got=f"{len(tables)} .csv files", allowed="one .csv file")
    table = tables[0]
    with lines_of(source, table) as handle:
        decimal = handle.dialect.decimal
        header = [name.strip().lower() for name in next(csv.reader(handle), [])]
    if len(header) < 2 or len(set(header)) != len(header):
        raise DataError("not a table", where="--source", got=f"{len(header)} columns", allowed="a header of distinct names, then rows")
    columns = feature_columns(spec, header, next((row for _, row in rows_of(source, table)), []), decimal)
    label_rule(spec, ["", *header])
    job.rows = job.announced = _look(source, table, columns)
    tasks = (Task(f"rows-{piece[0][0]:09d}", (table, header, columns, decimal, piece)) for piece in pieces(rows_of(source, table), CHUNK))
    job.stage("rows", read_rows, tasks, total=job.rows, size=lambda t: len(t.payload[4]), file=lambda t: t.payload[0],
              units=lambda t: [(t.payload[0], line) for line, _ in t.payload[4]])  # fmt: skip


def read_rows(context: Context, task: Task) -> Outcome:
    """Some rows."""
    table, header, columns, decimal, rows = task.payload
    out, words, persons = Outcome(), set(), set()
    label = label_rule(context.spec, ["", *header])
    path = context.source.items[table].path
    with Arrays(context, task, out) as arrays:
        for line, values in rows:
            try:
                if len(values) != len(header):
                    raise NotUsable("another number of values than of columns")
                row = dict(zip(header, values, strict=True))
                facts = row_facts(context.spec, row, context.pseudonymiser, out.notes) | label(row)
                words.update(row[name].strip() for name in group_columns(row))
                persons.add(person_of(row))
                array = feature_values([values[n] for n in columns], np.dtype(context.spec.input.dtype), decimal, context.spec.input.range)
                sample = context.pseudonymiser.id("sample", path, str(line))
                group = facts.pop("group") or sample
                ids = {"sample_id": sample, "group_id": group, "patient_id": facts["patient_id"] or group, "series_id": sample}
                arrays.add(facts | ids, array)
            except NotUsable as reason:
                out.rejected.append(Rejected(table, reason.reason, line))
    out.words = word_hashes(words, context.pseudonymiser)
    out.found += remarks.persons(persons, table, context.pseudonymiser)
    return out


def _look(source: Source, table: int, columns: list[int]) -> int:
    """The number of rows; warns of constant columns. Raises DataError without rows, or when no column varies."""
    first: list[str] = []
    varies, count = set(), 0
    for _, row in rows_of(source, table):
        first = first or row
        count += 1
        varies.update(n for n in columns if n < min(len(row), len(first)) and n not in varies and row[n].strip() != first[n].strip())
    if not count or (count > 1 and not varies):
        raise DataError("nothing to learn from in this table", where="--source", got=f"{count} rows, {len(varies)} columns that vary")
    if len(varies) < len(columns):
        emit("warning", text=f"{len(columns) - len(varies)} of {len(columns)} columns of features never change")
    return count
