"""What Feast 0.67 does that the store guards against. A failure here after an upgrade says that a guard may go."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.core.devices import DeviceProfile
from components.core.errors import DataError
from feature_store import definitions
from feature_store.feast_import import feast
from feature_store.store import _each_once, _open, profiles_at, write_profiles

PROFILE = DeviceProfile("scanner-a", "1", 10, -600.0, 300.0, -1000.0, -700.0, 200.0, 20.0, 0.1)


@pytest.fixture
def scratch(tmp_path: Path) -> Any:
    return _open(registry=tmp_path / "registry.db", online=tmp_path / "online.db")


def test_feast_answers_an_expired_row_as_present(scratch: Any, tmp_path: Path) -> None:
    """TTL one day, row ten days old: Feast returns the value all the same."""
    f = feast()
    entity = f.Entity(name="d", join_keys=["d"], value_type=f.ValueType.STRING)
    types = sys.modules["feast.types"]
    view = f.FeatureView(
        name="v", entities=[entity], ttl=timedelta(days=1), schema=[f.Field(name="d", dtype=types.String), f.Field(name="x", dtype=types.Float64)],
        source=f.FileSource(path=str(tmp_path / "none.parquet"), timestamp_field="event_timestamp"),
    )  # fmt: skip
    scratch.apply([entity, view])
    old = datetime.now(UTC) - timedelta(days=10)
    scratch.write_to_online_store("v", df=pd.DataFrame({"d": ["a"], "x": [1.5], "event_timestamp": [old]}))
    assert scratch.get_online_features(features=["v:x"], entity_rows=[{"d": "a"}]).to_dict()["x"] == [1.5]


def test_an_unknown_key_gives_none_values(scratch: Any) -> None:
    scratch.apply(definitions.definitions("none.parquet"))
    answer = scratch.get_online_features(features=["device_profile:n"], entity_rows=[{"device_key": "nobody"}]).to_dict()
    assert answer["n"] == [None]


def test_the_default_offline_store_drops_repeated_questions(tmp_path: Path) -> None:
    """Feast's default (dask) answers 300 samples of 3 (device, time) pairs with 3 rows; DuckDB, the store's choice, answers 300."""
    f = feast()
    write_profiles(tmp_path / "f", [PROFILE.to_dict() | {"event_timestamp": datetime(2020, 1, 1, tzinfo=UTC)}])
    asked = pd.DataFrame({"device_key": "scanner-a", "event_timestamp": pd.Timestamp("2020-02-01", tz=UTC), "row_id": range(300)})
    asked["event_timestamp"] += pd.to_timedelta(asked["row_id"] % 3, unit="D")
    got = {}
    for kind in ("dask", "duckdb"):
        online = {"type": "sqlite", "path": str(tmp_path / f"{kind}.db")}
        registry = {"path": str(tmp_path / f"{kind}-registry.db")}
        config = f.RepoConfig(
            project="p", provider="local", registry=registry, offline_store={"type": kind}, online_store=online, entity_key_serialization_version=3
        )
        store = f.FeatureStore(config=config)
        store.apply(definitions.definitions(str(tmp_path / "f" / "device_profile.parquet")))
        got[kind] = len(store.get_historical_features(entity_df=asked.copy(), features=["device_profile:n"]).to_df())
    assert got == {"dask": 3, "duckdb": 300}


@pytest.mark.parametrize(
    ("ids", "says"), [([0, 2], "2 rows, 1 lost"), ([0, 1, 1, 2], "4 rows, 0 lost"), ([0, 1, 1], "3 rows, 1 lost"), ([0, 1, 7], "1 lost")]
)
def test_rows_lost_repeated_or_invented_are_an_error(ids: list[int], says: str) -> None:
    with pytest.raises(DataError, match=f"lost or repeated rows; got .*{says}; allowed: 3 rows, each once"):
        _each_once(pd.Series(ids), 3)


def test_a_profile_survives_the_store_with_its_version(tmp_path: Path) -> None:
    odd = replace(PROFILE, mean=-612.345, sd=1e-6, noise_sd=0.0)
    write_profiles(tmp_path / "f", [odd.to_dict() | {"event_timestamp": None}])
    (got,) = profiles_at(tmp_path / "f", pd.DataFrame({"device_key": ["scanner-a"], "acquired_at": [pd.NaT]}))
    assert got is not None
    assert got.version == odd.version


def test_importing_feast_our_way_spares_torch_and_leaves_typeguard_and_warnings_as_they_were(tmp_path: Path) -> None:
    code = """
import sys, warnings, typeguard
from pathlib import Path
from feature_store.store import write_profiles
write_profiles(Path("scratch") / "f", [])
assert "feast" not in sys.modules, "ingest would pay for Feast"
checked, filters = typeguard.typechecked, list(warnings.filters)
from feature_store.feast_import import feast
f = feast()
assert "torch" not in sys.modules, "torch"
assert typeguard.typechecked is checked, "typeguard"
assert warnings.filters == filters, "warnings"
assert sys.modules["feast.torch_wrapper"].get_torch().__name__ == "torch", "get_torch"
assert feast() is f
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)},
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
