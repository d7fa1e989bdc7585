"""Which ids stand for one patient, and taking the rows that hold one of them out of a table."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.atomic import atomic_file
from components.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

NAMING = ("patient_id", "group_id", "sample_id", "series_id", "lesion_id", "patient", "study", "series", "request_id", "event_id", "sample")
"""Columns that say whose a row is. A scanner's key looks the same, and must never count as a patient's."""
TOKEN = re.compile(rb"[0-9A-Za-z_]{4,}(?:-[0-9A-Za-z_]+)*")


@dataclass(frozen=True)
class Ids:
    """Keyed hashes that stand for one patient and nobody else.

    Args:
        keys: Of the patient: as a patient, as a group, as a word of a path.
        studies: Of studies and series.
        samples: Of samples in datasets.
        requests: Of answers in the inference log, and of a collector's events.
    """

    keys: frozenset[str] = frozenset()
    studies: frozenset[str] = frozenset()
    samples: frozenset[str] = frozenset()
    requests: frozenset[str] = frozenset()

    @property
    def all(self) -> frozenset[str]:
        return self.keys | self.studies | self.samples | self.requests

    def __or__(self, other: Ids) -> Ids:
        return Ids(*(getattr(self, f.name) | getattr(other, f.name) for f in fields(self)))

    def to_dict(self) -> dict[str, list[str]]:
        return {f.name: sorted(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, raw: dict[str, list[str]]) -> Ids:
        return cls(**{name: frozenset(values) for name, values in raw.items()})


def rows_of(table: pa.Table, ids: frozenset[str]) -> NDArray[np.bool_]:
    """(n,) rows with one of `ids` in a column of `NAMING`."""
    import pyarrow as pa

    mask = np.zeros(table.num_rows, bool)
    for column in (table[name] for name in NAMING if name in table.column_names):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            mask |= column.to_pandas().isin(ids).to_numpy(bool)
    return mask


def read(path: Path | BinaryIO) -> pa.Table:
    """A Parquet file. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError("not a Parquet file", where=str(getattr(path, "name", path)), got=type(error).__name__) from None


def drop_rows(path: Path, ids: frozenset[str], *, dry: bool) -> int:
    """Write a Parquet file anew without the rows of `ids`, atomically; the others keep their order and values. Returns how many went."""
    import pyarrow.parquet as pq

    table = read(path)
    mask = rows_of(table, ids)
    count = int(mask.sum())
    if count and not dry:
        with atomic_file(path) as partial:
            pq.write_table(table.filter(~mask), partial)
    return count


def holds(data: Any, ids: Ids) -> bool:
    """Whether bytes hold one of the ids: those of the patient and of studies anywhere, the many others as whole words."""
    if any(data.find(value.encode()) >= 0 for value in ids.keys | ids.studies):
        return True
    many = {value.encode() for value in ids.samples | ids.requests}
    return bool(many) and any(match[0] in many for match in TOKEN.finditer(data))
