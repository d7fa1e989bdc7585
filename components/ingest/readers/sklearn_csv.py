"""The tables that scikit-learn ships: the first line holds the number of rows, the number of features and the names of the classes; every
further row holds the features and the class's number. There are no patients, dates or devices: each row is taken as a case of its own.
"""

from __future__ import annotations

import csv

import numpy as np

from components.core.errors import DataError, SpecError
from components.core.feature_table import feature_values
from components.core.imaging.errors import NotUsable
from components.core.labels import class_index
from components.core.pseudonym import UNKNOWN_DEVICE
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected
from components.ingest.tables import lines_of


def read(job: Job) -> None:
    """One task for each table."""
    spec, source = job.context.spec, job.context.source
    if spec.input.layout != "table" or spec.target.kind == "multilabel":
        raise SpecError("reader 'sklearn-csv' gives tables with one class per row", where="input.layout", got=spec.input.layout, allowed="table")
    tables = [n for n, item in enumerate(source.items) if item.path.lower().endswith(".csv") and item.size > 0]
    tasks, rows = [], 0
    for number in tables:
        with lines_of(source, number) as handle:
            head = next(csv.reader(handle), [])
        classes = [name.strip().lower() for name in head[2:]]
        wanted = [name.lower() for name in spec.target.classes]
        if len(head) < 4 or not head[0].isdecimal() or not head[1].isdecimal():
            raise DataError("not a table as scikit-learn ships them", where=f"--source, {number + 1}. file", allowed="rows,features,class,class,...")
        if sorted(classes) != sorted(wanted) or int(head[1]) != spec.input.shape[0]:
            raise DataError(
                "a table of other features or classes", where=f"--source, {number + 1}. file", got=f"{head[1]} features, {len(classes)} classes",
                allowed=f"{spec.input.shape[0]} features, classes {', '.join(spec.target.classes)}",
            )  # fmt: skip
        rows += int(head[0])
        tasks.append(Task(f"table-{number:06d}", (number, [wanted.index(name) for name in classes], int(head[0]))))
    if not tasks:
        raise DataError("no table", where="--source", got=f"{len(source.items)} files", allowed=".csv")
    job.rows = job.announced = rows
    job.stage("tables", read_table, tasks, total=rows, size=lambda t: t.payload[2], file=lambda t: t.payload[0])


def read_table(context: Context, task: Task) -> Outcome:
    """All rows of one table."""
    number, classes, announced = task.payload
    out = Outcome()
    path = context.source.items[number].path
    with lines_of(context.source, number) as handle, Arrays(context, task, out) as arrays:
        lines = csv.reader(handle)
        next(lines)
        for row in lines:
            if not row:
                continue
            try:
                if len(row) != context.spec.input.shape[0] + 1:
                    raise NotUsable("another number of values than of columns")
                place = class_index(row[-1], {})
                if place is None or place >= len(classes):
                    raise NotUsable("a label outside the spec's classes")
                line = lines.line_num + handle.dialect.skipped
                sample = context.pseudonymiser.id("sample", path, str(line))
                facts = {
                    "sample_id": sample, "group_id": sample, "patient_id": sample, "series_id": sample, "device_key": UNKNOWN_DEVICE,
                    "software": "", "label": classes[place], "synthetic": False,
                }  # fmt: skip
                values = feature_values(row[:-1], np.dtype(context.spec.input.dtype), handle.dialect.decimal, context.spec.input.range)
                arrays.add(facts, values)
            except NotUsable as reason:
                out.rejected.append(Rejected(number, reason.reason, lines.line_num + handle.dialect.skipped))
    if (rows := len(out.samples) + len(out.rejected)) != announced:
        raise DataError("a table of another length than its first line says", where=f"--source, {number + 1}. file", got=rows, allowed=announced)
    return out
