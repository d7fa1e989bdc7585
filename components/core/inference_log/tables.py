"""Records as tables: one row per record, the same columns and kinds whether it was read from a line or from Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from components.core import acquisition

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

SLIDE = "slide"
"""`source` of an answer about a whole slide: its scores are the slide's, its image figures those of one tile."""
IMAGE_FEATURES = ("mean", "sd", "p01", "p50", "p99", "noise_sd", "sharpness")
"""The figures of `components/core/devices.py` that records of every age have, in the spec's unit (sharpness: unitless)."""

COLUMNS: dict[str, str] = {
    "time": "datetime64[us, UTC]", "request_id": "str", "model": "str", "version": "str", "digest": "str", "source": "str", "status": "str",
    "device_key": "str", "manufacturer": "str", "device_model": "str", "device_status": "str", "profile": "str",
    "patient": "str", "study": "str", "series": "str", "decision": "str", "abstain": "bool", "reasons": "object", "latency_ms": "float64",
    "embedding": "object",
}  # fmt: skip
"""Columns that every frame of `read_log` has. Beside them come what the records hold: `score_<class>`, `acq_*`, `cov_*`, and image figures by their
name (`components/core/image_quality.py`; which of them, the spec decides, and an older server knew fewer), as numbers, or as text where one is text.

`patient`, `study` and `series` are keyed hashes. `status`: `answered`, `abstained`, `refused` (the request was wrong), `error` (the server was),
`unanswered` (nothing was computed: too many waited, or the deadline passed; at a collector: no answer was seen), `erased` (an empty row, see
erasure.py; only `since` shows it). `embedding`: float32 (d,) where the model offers one.
"""

ERASED = "erased"
STRANGE = "strange_names"
"""Column of how many acquisition parameters a record holds that nobody knows (`components/core/acquisition.py`): servers took any name before. What a
segment compacted then holds of them stands in its first row."""
GROUPS = ("scores", "image", "acquisition", "covariates")


def row(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its groups laid flat. Its status is told by `abstain` where an older server did not write one."""
    flat = {key: value for key, value in record.items() if key not in GROUPS}
    flat |= {f"score_{name}": value for name, value in (record.get("scores") or {}).items()}
    flat |= record.get("image") or {}
    known, strange = acquisition.folded(record.get("acquisition") or {})
    flat |= known | ({STRANGE: strange} if strange else {})
    flat |= record.get("covariates") or {}
    flat.setdefault("status", "abstained" if flat.get("abstain") is True else "answered")
    for name, value in flat.items():
        if name not in COLUMNS and isinstance(value, list | dict):
            flat[name] = json.dumps(value)
    return flat


def known_columns(file: pq.ParquetFile) -> tuple[list[str] | None, int]:
    """Of a compacted segment the columns to read, None for all, and how many values stand in the others: parameters that nobody knows, of a server
    that took any name. They are counted by the file's own statistics; reading thirty thousand columns takes a minute."""
    names = file.schema_arrow.names
    kept = [name for name in names if not name.startswith(acquisition.PREFIX) or acquisition.named(name)]
    if len(kept) == len(names):
        return None, 0
    chosen, count = set(kept), 0
    for group in map(file.metadata.row_group, range(file.metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema.partition(".")[0] not in chosen:
                told = column.statistics
                count += group.num_rows - (told.null_count if told is not None and told.has_null_count else 0)
    return kept, count


def texts(rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """Columns beside `COLUMNS` that hold a text somewhere."""
    return {name for r in rows for name, value in r.items() if isinstance(value, str) and name not in COLUMNS}


def typed(table: pd.DataFrame, as_text: Set[str] = frozenset()) -> pd.DataFrame:
    """Give every column its kind, in place; those of `COLUMNS` that are absent are made. `as_text`: further columns that are text."""
    import numpy as np
    import pandas as pd

    for name, kind in COLUMNS.items():
        if name not in table:
            table[name] = pd.Series([None] * len(table), dtype="object", index=table.index)
        column = table[name]
        if name == "embedding":
            vectors = [np.asarray(v, dtype=np.float32) if isinstance(v, list | np.ndarray) else None for v in column]
            table[name] = pd.Series(vectors, index=table.index, dtype="object")
        elif kind == "object":
            table[name] = pd.Series(
                [[str(t) for t in v] if isinstance(v, list | np.ndarray) else None for v in column], index=table.index, dtype="object"
            )
        elif kind == "str":
            table[name] = column.astype("string")
        elif kind == "bool":
            table[name] = column.eq(True).fillna(False).astype(bool)
        elif name == "time":
            table[name] = pd.to_datetime(column, utc=True, format="ISO8601", errors="coerce").astype("datetime64[us, UTC]")
        else:
            table[name] = pd.to_numeric(column, errors="coerce").astype("float64")
    for name in [c for c in table.columns if c not in COLUMNS]:
        column = table[name]
        if name in as_text or column.dtype == "string" or (column.dtype == "object" and any(isinstance(v, str) for v in column)):
            table[name] = _as_text(column)
        else:
            table[name] = pd.to_numeric(column, errors="coerce").astype("float64")
    return table


def joined(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tables that `typed` has made as one; a column that is text in one of them is text in all."""
    import numpy as np
    import pandas as pd

    further = sorted({name for part in parts for name in part.columns} - set(COLUMNS))
    as_text = {name for name in further for part in parts if name in part and part[name].dtype == "string"}
    whole = []
    for part in parts:
        columns = {name: part[name] for name in COLUMNS if name in part}
        for name in further:
            if name in part:
                columns[name] = _as_text(part[name]) if name in as_text else part[name]
            else:  # spelled out: pandas would let an empty column decide the kind of the whole
                columns[name] = pd.Series(pd.NA if name in as_text else np.nan, index=part.index, dtype="string" if name in as_text else "float64")
        whole.append(pd.DataFrame(columns, index=part.index))
    return typed(pd.concat(whole, ignore_index=True) if whole else pd.DataFrame())


def _as_text(column: pd.Series) -> pd.Series:
    import pandas as pd

    if column.dtype == "string":
        return column
    return pd.Series([None if pd.isna(v) else _text(v) for v in column], index=column.index, dtype="string")


def _text(value: Any) -> str:
    """A number among texts reads the same wherever it comes from: 120 is "120.0"."""
    return value if isinstance(value, str) else repr(float(value))


def schema(columns: Iterable[str], as_text: Set[str]) -> pa.Schema:
    """Arrow's schema of a table that `typed` has made, of `COLUMNS` and `columns`."""
    import pyarrow as pa

    kinds = {"str": pa.string(), "bool": pa.bool_(), "float64": pa.float64(), "datetime64[us, UTC]": pa.timestamp("us", tz="UTC")}
    fixed = {name: kinds.get(kind) for name, kind in COLUMNS.items()} | {"reasons": pa.list_(pa.string()), "embedding": pa.list_(pa.float32())}
    further = {name: pa.string() if name in as_text else pa.float64() for name in sorted(set(columns) - set(COLUMNS))}
    return pa.schema([*fixed.items(), *further.items()])
