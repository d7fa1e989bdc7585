"""The Feast objects, all of them: one entity, one source, one view, one service.

A change here that old packages cannot read gets a new `FEATURE_SERVICE` name; a model package records the name that it was trained with.
"""

from __future__ import annotations

import sys
from dataclasses import fields
from datetime import timedelta
from typing import Any

import pyarrow as pa

from components.core.devices import DeviceProfile
from feature_store.feast_import import feast

PROJECT = "dxflow"
ENTITY = "device_key"
VIEW = "device_profile"
FEATURE_SERVICE = "device_profile_v1"
EVENT, CREATED = "event_timestamp", "created_timestamp"

_TYPES: dict[str, tuple[pa.DataType, str]] = {"int": (pa.int64(), "Int64"), "float": (pa.float64(), "Float64"), "str": (pa.string(), "String")}
# What a profile consists of is said once, by `DeviceProfile`; its key is the entity, its version says which measurement this is.
FEATURES: dict[str, str] = {f.name: str(f.type) for f in fields(DeviceProfile) if f.name != ENTITY} | {"profile_version": "str"}


def arrow_schema() -> pa.Schema:
    """Of `device_profile.parquet`: the key, the features, and the two times, in microseconds because DuckDB reads nothing finer."""
    times = [(name, pa.timestamp("us", tz="UTC")) for name in (EVENT, CREATED)]
    return pa.schema([(ENTITY, pa.string()), *((name, _TYPES[kind][0]) for name, kind in FEATURES.items()), *times])


def definitions(source: str) -> list[Any]:
    """Entity, feature view and feature service over the parquet file `source`.

    The view has no TTL: a profile holds until the next one of its device. How old an answer may be at serving is asked there, because
    Feast does not enforce a TTL online (tests/feature_store/test_feast_traps.py).
    """
    f = feast()
    entity = f.Entity(name=ENTITY, join_keys=[ENTITY], value_type=f.ValueType.STRING)
    types: Any = sys.modules["feast.types"]  # there since `feast()`, and a plain import here would look like the slow one
    view = f.FeatureView(
        name=VIEW, entities=[entity], ttl=timedelta(0), online=True,
        schema=[f.Field(name=ENTITY, dtype=types.String), *(f.Field(name=n, dtype=getattr(types, _TYPES[k][1])) for n, k in FEATURES.items())],
        source=f.FileSource(name=f"{VIEW}_source", path=source, timestamp_field=EVENT, created_timestamp_column=CREATED),
    )  # fmt: skip
    return [entity, view, f.FeatureService(name=FEATURE_SERVICE, features=[view])]
