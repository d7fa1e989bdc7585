"""The Feast objects, all of them: three entities (device, study, patient), four views, one service each.

A change here that old packages cannot read gets a new `FEATURE_SERVICE` name; a model package records the name that it was trained with.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any

import pyarrow as pa

from components.core.dataset import MANIFEST
from components.core.devices import DeviceProfile
from components.core.image_quality import ALL
from feature_store.feast_import import feast

PROJECT = "dxflow"
ENTITY = "device_key"
VIEW = "device_profile"
FEATURE_SERVICE = "device_profile_v1"
EVENT, CREATED = "event_timestamp", "created_timestamp"

_TYPES: dict[str, tuple[pa.DataType, str]] = {"int": (pa.int64(), "Int64"), "float": (pa.float64(), "Float64"), "str": (pa.string(), "String")}
# What a profile consists of is said once, by `DeviceProfile`; its key is the entity, its version says which measurement this is.
FEATURES: dict[str, str] = {f.name: str(f.type) for f in fields(DeviceProfile) if f.name != ENTITY} | {"profile_version": "str"}


@dataclass(frozen=True)
class View:
    """A view beside `device_profile`: measured on studies or told of patients, one parquet file, its key a column of the manifest.

    Args:
        entity: Manifest column of the key.
        features: {name: "int", "float" or "str"}; any may be null.
    """

    name: str
    entity: str
    features: dict[str, str]

    @property
    def service(self) -> str:
        return f"{self.name}_v1"

    @property
    def file(self) -> str:
        return f"{self.name}.parquet"


MEASURED = "measured_us"  # microseconds since 1970, UTC: Feast's join does not say when the row that it found was measured
_KINDS = {"string": "str", "float": "float", "int32": "int"}
VIEWS: dict[str, View] = {
    view.name: view
    for view in (
        View("acquisition", "series_id", {name: _KINDS[kind] for name, kind in MANIFEST.items() if name.startswith("acq_") or name == "software"}),
        View("image_quality", "series_id", dict.fromkeys(ALL, "float")),
        View("covariates", "patient_id", {"age_years": "float", "sex": "str", "body_site": "str"}),
    )
}


def view_schema(view: View) -> pa.Schema:
    """Of a view's parquet file."""
    times = [(name, pa.timestamp("us", tz="UTC")) for name in (EVENT, CREATED)]
    features = [(name, _TYPES[kind][0]) for name, kind in view.features.items()]
    return pa.schema([(view.entity, pa.string()), *features, (MEASURED, pa.int64()), *times])


def view_definitions(view: View, source: str) -> list[Any]:
    """Entity, feature view and feature service of one of `VIEWS` over the parquet file `source`."""
    return _defined(view.name, view.entity, view.features | {MEASURED: "int"}, view.service, source)


def arrow_schema() -> pa.Schema:
    """Of `device_profile.parquet`: the key, the features, and the two times, in microseconds because DuckDB reads nothing finer."""
    times = [(name, pa.timestamp("us", tz="UTC")) for name in (EVENT, CREATED)]
    return pa.schema([(ENTITY, pa.string()), *((name, _TYPES[kind][0]) for name, kind in FEATURES.items()), *times])


def definitions(source: str) -> list[Any]:
    """Entity, feature view and feature service over the parquet file `source`.

    The view has no TTL: a profile holds until the next one of its device. How old an answer may be at serving is asked there, because
    Feast does not enforce a TTL online (tests/feature_store/test_feast_traps.py).
    """
    return _defined(VIEW, ENTITY, FEATURES, FEATURE_SERVICE, source)


def _defined(name: str, key: str, features: dict[str, str], service: str, source: str) -> list[Any]:
    f = feast()
    entity = f.Entity(name=key, join_keys=[key], value_type=f.ValueType.STRING)
    types: Any = sys.modules["feast.types"]  # there since `feast()`, and a plain import here would look like the slow one
    view = f.FeatureView(
        name=name, entities=[entity], ttl=timedelta(0), online=True,
        schema=[f.Field(name=key, dtype=types.String), *(f.Field(name=n, dtype=getattr(types, _TYPES[k][1])) for n, k in features.items())],
        source=f.FileSource(name=f"{name}_source", path=source, timestamp_field=EVENT, created_timestamp_column=CREATED),
    )  # fmt: skip
    return [entity, view, f.FeatureService(name=service, features=[view])]
