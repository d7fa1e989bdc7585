"""Images as rows of a table: columns `pixel0000`, `pixel0001`, ... as reader `pixels-csv` takes them; other columns are not looked at."""

from __future__ import annotations

import numpy as np

from components.core.errors import DataError
from components.core.imaging.errors import NotUsable
from components.core.pixel_table import image_of, pixel_columns
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from serving.bodies.body import Body
from serving.bodies.text import table
from serving.predictor import Query

TYPES = ("text/csv",)
MOST_ROWS = 4096


def fits(spec: DiseaseSpec) -> bool:
    """Images of bytes whose training data are such a table."""
    return spec.input.layout == "image" and spec.input.reader == "pixels-csv" and spec.input.dtype == "uint8"


def read(body: Body, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """One sample for each row."""
    _, lines = table(body, MOST_ROWS + 1)
    header = [name.strip().lower() for name in next(lines, [])]
    columns = pixel_columns(header, spec)
    found = []
    for n, row in enumerate(lines):
        try:
            if len(row) != len(header):
                raise NotUsable("another number of values than of columns")
            array = image_of([row[c] for c in columns], spec)
        except NotUsable as reason:
            raise DataError(f"row {n}: {reason.reason}") from None
        found.append(Query(array=np.ascontiguousarray(array), device_key=body.device_or(), source="table", part={"row": n}))
    if not found:
        raise NotUsable("no rows")
    return found
