"""Rows of a table: one sample each, features as ingest finds them.

Reader `sklearn-csv`: rows of the features, with or without the class's number behind them, with or without scikit-learn's first line.
Other readers: a header with the names of the columns, then rows.
"""

from __future__ import annotations

import numpy as np

from components.core.errors import DataError
from components.core.feature_table import feature_columns, feature_values
from components.core.imaging.errors import NotUsable
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from components.core.text_table import number
from serving.bodies.body import Body
from serving.bodies.text import table
from serving.predictor import Query

TYPES = ("text/csv",)
MOST_ROWS = 4096


def fits(spec: DiseaseSpec) -> bool:
    """Tables."""
    return spec.input.layout == "table"


def read(body: Body, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """One sample for each row."""
    decimal, rows = table(body, MOST_ROWS + 1)
    lines = list(rows)
    if not lines:
        raise NotUsable("no rows")
    features = spec.input.shape[0]
    if spec.input.reader == "sklearn-csv":
        first = 1 if any(number(word, decimal) is None for word in lines[0]) else 0
        columns, widths = list(range(features)), (features, features + 1)
    else:
        header = [name.strip().lower() for name in lines[0]]
        first = 1
        columns, widths = feature_columns(spec, header, lines[1] if len(lines) > 1 else [], decimal), (len(header), len(header))
    if len(lines) == first:
        raise NotUsable("no rows")
    found = []
    for n, row in enumerate(lines[first:]):
        try:
            if len(row) not in widths:
                raise NotUsable("another number of values than of columns")
            array = feature_values([row[c] for c in columns], np.dtype(spec.input.dtype), decimal)
        except NotUsable as reason:
            raise DataError(f"row {n}: {reason.reason}") from None
        found.append(Query(array=array, device_key=body.device_or(), source="table", part={"row": n}))
    return found
