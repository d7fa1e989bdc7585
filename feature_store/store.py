"""Guarded access to Feast: what it silently gets wrong becomes an error or an explicit answer here.

    write_profiles   ingest: the offline store, one parquet file in a folder that may be copied anywhere
                     with the rows of the other views, which `feature_store/views.py` reads
    profiles_at      train, evaluate: point-in-time, one answer for each manifest row or an error
    publish          register: the newest profile of each device into the online store, SQLite or Redis (feature_store/redis_online.py)
    OnlineProfiles   serving: ok, missing or stale, never zeros; a store that is away is a ServiceError and never `missing`

Feast keeps absolute paths in its registry, so no registry travels with the folder: it is rebuilt, in 0.1 s, wherever the folder is opened.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.core import scratch
from components.core.atomic import atomic_dir
from components.core.devices import DeviceProfile
from components.core.errors import DataError, ServiceError
from components.core.home import home
from components.core.pseudonym import UNKNOWN_DEVICE
from feature_store.definitions import CREATED, ENTITY, EVENT, FEATURE_SERVICE, FEATURES, PROJECT, VIEW, arrow_schema, definitions
from feature_store.feast_import import feast
from feature_store.redis_online import PUBLISH_WAIT_S, SERVER_WAIT_S, RedisPlace, address, client, project, publishing, unavailable

if TYPE_CHECKING:
    import pandas as pd

OFFLINE = "device_profile.parquet"
ONLINE = "online.db"
REGISTRY = f"registry-{FEATURE_SERVICE}.db"
READ_S = 1.0  # a read of Redis that takes longer, whatever holds it up (a name server, a trickle of bytes), counts as away
HOLD_OFF_S = 1.0  # after a failure the store is not asked for this long: a request of many samples waits once, not once for each
UNDATED_PROFILE = datetime(1970, 1, 1, tzinfo=UTC)  # a device without dates has one profile, and it always held
UNDATED_SAMPLE = datetime(2200, 1, 1, tzinfo=UTC)  # a sample without a date gets its device's newest profile


def write_profiles(folder: Path, rows: list[dict[str, Any]], *, views: dict[str, list[dict[str, Any]]] | None = None) -> None:
    """Write the offline store, whole or not at all; the same rows, in any order, give the same bytes.

    Args:
        folder: Replaced if it exists.
        rows: `DeviceProfile.to_dict()` and `event_timestamp` (aware datetime, or None where the device carries no dates), each
            (device_key, event_timestamp) once. A re-measurement may carry `created_timestamp`; samples older than it do not see it.
        views: Rows of the other views by name, see `feature_store.views.write_view`; a view that is not given has no file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = []
    for row in rows:
        profile = DeviceProfile.from_dict(row)
        event = _utc(row.get(EVENT)) or UNDATED_PROFILE
        table.append(profile.to_dict() | {"profile_version": profile.version, EVENT: event, CREATED: _utc(row.get(CREATED)) or event})
    table.sort(key=lambda r: (r[ENTITY], r[EVENT], r[CREATED], r["software"]))
    keys = [(r[ENTITY], r[EVENT], r[CREATED]) for r in table]
    if len(set(keys)) != len(keys):
        raise DataError("two profiles of one device at one time", where="device_profile", got=len(keys) - len(set(keys)), allowed="one per software")
    with atomic_dir(folder) as partial:
        pq.write_table(pa.Table.from_pylist(table, schema=arrow_schema()), partial / OFFLINE, coerce_timestamps="us")
        info = {
            "schema_version": 1,
            "feature_service": FEATURE_SERVICE,
            "profile_version": _version(table),
            "devices": len({r[ENTITY] for r in table}),
        }
        (partial / "features.json").write_text(json.dumps(info, indent=1, sort_keys=True), encoding="utf-8")
        if views:
            from feature_store.views import write_view

            for name, found in views.items():
                write_view(partial, name, found)


def profile_version(folder: Path) -> str:
    """16 hexadecimal characters over all rows of the offline store; a model package records it."""
    return _version(_table(folder).to_pylist())


def profiles_at(folder: Path, manifest: pd.DataFrame) -> list[DeviceProfile | None]:
    """The profile that held for each sample's device when the sample was acquired.

    Args:
        manifest: Columns `device_key` and `acquired_at` (UTC; null means `UNDATED_SAMPLE`), any index.

    Returns:
        One entry per manifest row, in its order. None: the device has no profile of that time or earlier, or the sample names no device
        (`UNKNOWN_DEVICE` is many devices, and their common figures describe none of them).

    Raises:
        DataError: Feast lost, repeated or invented a row.
    """
    import pandas as pd

    rows = _table(folder).num_rows
    if not len(manifest) or not rows:
        return [None] * len(manifest)
    acquired = pd.to_datetime(manifest["acquired_at"], utc=True).fillna(pd.Timestamp(UNDATED_SAMPLE)).astype("datetime64[us, UTC]")
    asked = pd.DataFrame({ENTITY: manifest[ENTITY].astype(object), EVENT: acquired}).reset_index(drop=True)
    # A series has many samples: each (device, time) is asked once.
    asked["row_id"] = asked.groupby([ENTITY, EVENT], sort=False).ngroup()
    unique = asked.drop_duplicates("row_id")
    with scratch.room("feast") as room:
        store = _open(registry=room / "registry.db", online=room / ONLINE)
        store.apply(definitions(str((Path(folder) / OFFLINE).absolute())))
        job = store.get_historical_features(
            entity_df=unique.copy(), features=store.get_feature_service(FEATURE_SERVICE), filter_by_created_timestamp=True
        )
        answer = job.to_df()
    _each_once(answer["row_id"], len(unique))
    answer = answer.sort_values("row_id").reset_index(drop=True)  # row_id is 0..n-1
    found: list[DeviceProfile | None] = [
        None if pd.isna(row["n"]) else DeviceProfile.from_dict(row) for row in answer.to_dict("records")
    ]  # fmt: skip
    return [None if key == UNKNOWN_DEVICE else found[i] for key, i in zip(asked[ENTITY], asked["row_id"], strict=True)]


def online_folder(package: str) -> Path:
    """Where the online profiles of one model package live: `home()/features/<package>`.

    Apart for each package, since a scanner's profile of chest patches says nothing about its brain volumes, and a phantom's profile
    must never answer for a patient.
    """
    return home() / "features" / package


def online_place(package: str) -> Path | RedisPlace:
    """Where the online profiles of one model package live, by `DXFLOW_ONLINE_STORE`: its folder, or its keys at a Redis server."""
    where = address()
    return online_folder(package) if where is None else RedisPlace(where, package)


def publish(folder: Path, *, online: Path | RedisPlace, now: datetime | None = None) -> str:
    """Put the newest profile of each device into the online store; safe beside other writers and readers.

    The online event time is the time of publication, because acquisition dates are shifted by the pseudonym key. Publishing the same
    measurement again keeps its first publication time: a profile does not get younger by being copied.

    Args:
        online: See `online_place`.
        now: Time of publication; by default the clock's.

    Returns:
        `profile_version(folder)`.

    Raises:
        ServiceError: The store is away, or lost what was written.
    """
    import pandas as pd

    table = _table(folder).to_pylist()
    newest = {row[ENTITY]: row for row in table if row[ENTITY] != UNKNOWN_DEVICE}  # sorted by device and time, so the last one stays
    with _publishing(online) as store, _told(online):
        kept = _read(store, newest)
        published = now or datetime.now(UTC)
        fresh = [row | {EVENT: published, CREATED: published} for key, row in newest.items() if kept[key][0] != row["profile_version"]]
        if fresh:
            store.write_to_online_store(VIEW, df=pd.DataFrame(fresh))
            written = _read(store, [row[ENTITY] for row in fresh])
            if lost := sum(written[row[ENTITY]][0] != row["profile_version"] for row in fresh):
                raise ServiceError("the online store lost profiles", where=_name(online), got=f"{lost} of {len(fresh)}")
    return _version(table)


@dataclass(frozen=True)
class ProfileAnswer:
    """What the online store knows of a device.

    Args:
        status: `ok`, `missing` (never published) or `stale` (published, but longer ago than allowed).
        profile: Also given when stale, for the record; the caller decides by `status`.
        age_days: Since publication.
    """

    status: Literal["ok", "missing", "stale"]
    profile: DeviceProfile | None = None
    age_days: float | None = None


class OnlineProfiles:
    """Reads the online store of one package; keeps it open, because importing Feast takes seconds. Threads may share it."""

    def __init__(self, online: Path | RedisPlace) -> None:
        self.online = online
        self._store: Any = None
        self._lock = threading.Lock()
        self._aside: ThreadPoolExecutor | None = None
        self._away: tuple[float, ServiceError] | None = None  # until when, by the monotonic clock

    def get(self, device_key: str, *, max_age_days: float, now: datetime | None = None) -> ProfileAnswer:
        """The profile of a device. Values are checked, not Feast's status: on Redis an unknown key counts as present.

        Raises:
            ServiceError: The store is away or locked: on Redis within `READ_S`, on SQLite within `SERVER_WAIT_S`.
        """
        if device_key == UNKNOWN_DEVICE:
            return ProfileAnswer("missing")
        with self._lock:
            version, profile, published = self._asked(device_key)
        if version is None or profile is None or published is None:
            return ProfileAnswer("missing")
        age = max(0.0, ((now or datetime.now(UTC)) - published).total_seconds() / 86_400)
        return ProfileAnswer("stale" if age > max_age_days else "ok", profile, age)

    def _asked(self, device_key: str) -> Found:
        if self._store is None:
            if isinstance(self.online, RedisPlace):
                self._store = _open_redis(self.online, wait_s=SERVER_WAIT_S)
                self._aside = ThreadPoolExecutor(1, thread_name_prefix="online-profiles")
            elif not (self.online / REGISTRY).exists():
                return None, None, None
            else:
                self._store = _open(registry=self.online / REGISTRY, online=self.online / ONLINE)
                with _told(self.online):  # a backup may lock it for a minute: no answer waits for that
                    connection = self._store._get_provider().online_store._get_conn(self._store.config)
                    connection.execute(f"pragma busy_timeout = {int(1000 * SERVER_WAIT_S)}")
        if self._away and time.monotonic() < self._away[0]:
            raise ServiceError(self._away[1].what, where=self._away[1].where, got=self._away[1].got)
        try:
            with _told(self.online):
                if self._aside is None:
                    return _read(self._store, [device_key])[device_key]
                return self._aside.submit(_read, self._store, [device_key]).result(READ_S)[device_key]
        except ServiceError as error:
            self._away = (time.monotonic() + HOLD_OFF_S, error)
            raise


def _each_once(row_ids: pd.Series, n: int) -> None:
    """Raises DataError unless the row ids are 0..n-1, each once, in any order."""
    lost = n - len(set(row_ids) & set(range(n)))
    if lost or len(row_ids) != n:
        raise DataError(
            "the feature store lost or repeated rows", where=VIEW, got=f"{len(row_ids)} rows, {lost} lost", allowed=f"{n} rows, each once"
        )


def _utc(value: Any) -> datetime | None:
    """An aware datetime, in UTC; None stays None."""
    import pandas as pd

    if value is None or pd.isna(value):
        return None
    stamp = pd.Timestamp(value)
    if stamp.tzinfo is None:
        raise DataError("time without a zone", where=f"device_profile: {EVENT}", allowed="an aware datetime in UTC")
    return stamp.tz_convert(UTC).floor("us").to_pydatetime()


def _version(table: list[dict[str, Any]]) -> str:
    facts = [[row[ENTITY], row["software"], row["profile_version"], row[EVENT].isoformat()] for row in table]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _table(folder: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(Path(folder) / OFFLINE)
    except (FileNotFoundError, NotADirectoryError, pa.ArrowInvalid):
        raise DataError(f"not a feature store: {OFFLINE} is missing or unreadable", where=str(folder)) from None
    if not table.schema.equals(arrow_schema()):
        raise DataError("feature store of another schema", where=str(folder), allowed=FEATURE_SERVICE)
    return table


def _open(*, registry: Path, online: Path) -> Any:
    return _feast_store(PROJECT, registry, {"type": "sqlite", "path": str(online.absolute())})


def _open_redis(place: RedisPlace, *, wait_s: float) -> Any:
    """The package's project at the server; nothing is sent yet. The definitions stay in memory, as their file goes at once."""
    with scratch.room("feast") as room:
        # The client is ours, so Feast needs no address. Without `skip_dedup` it drops a write in silence when the last writer's clock was ahead.
        store = _feast_store(project(place.package), room / "registry.db", {"type": "redis", "connection_string": "unused:0", "skip_dedup": True})
        store.apply(definitions(OFFLINE))
        store.get_feature_view(VIEW)
    store._get_provider().online_store._client = client(place.address, wait_s=wait_s)
    return store


def _feast_store(name: str, registry: Path, online: dict[str, Any]) -> Any:
    f = feast()
    config = f.RepoConfig(
        project=name, provider="local", registry={"path": str(registry.absolute()), "cache_ttl_seconds": 0},
        # The default offline store (dask) silently drops rows in the point-in-time join; DuckDB does not.
        offline_store={"type": "duckdb"}, online_store=online, entity_key_serialization_version=3,
    )  # fmt: skip
    return f.FeatureStore(config=config)


@contextmanager
def _publishing(online: Path | RedisPlace) -> Iterator[Any]:
    """The store to write to, held by one publisher at a time."""
    if isinstance(online, RedisPlace):
        with publishing(online):
            yield _open_redis(online, wait_s=PUBLISH_WAIT_S)
        return
    with _locked(online):
        yield _publishing_store(online)


def _publishing_store(online: Path) -> Any:
    """The SQLite store with its tables and its registry; the caller holds the lock."""
    if not (online / REGISTRY).exists():
        draft = online / f"{REGISTRY}.draft"
        draft.unlink(missing_ok=True)
        _open(registry=draft, online=online / ONLINE).apply(definitions(OFFLINE))  # no source is read online, so no path is kept
        draft.replace(online / REGISTRY)
    return _open(registry=online / REGISTRY, online=online / ONLINE)


def _name(online: Path | RedisPlace) -> str:
    return str(online.address) if isinstance(online, RedisPlace) else str(online / ONLINE)


@contextmanager
def _told(online: Path | RedisPlace) -> Iterator[None]:
    """Failures of the database as a ServiceError; anything else is a defect and passes."""
    try:
        yield
    except sqlite3.Error as error:
        raise ServiceError("the online store cannot be used", where=_name(online), got=type(error).__name__) from None
    except Exception as error:
        if not isinstance(online, RedisPlace):
            raise
        raise unavailable(error, online.address) from None


Found = tuple[str | None, DeviceProfile | None, datetime | None]


def _read(store: Any, device_keys: Iterable[str]) -> dict[str, Found]:
    """Of each device: version, profile and time of publication, or three times None."""
    keys = list(device_keys)
    if not keys:
        return {}
    names = [f"{VIEW}:{name}" for name in FEATURES]
    answer = store.get_online_features(features=names, entity_rows=[{ENTITY: key} for key in keys]).to_dict(include_event_timestamps=True)
    found: dict[str, Found] = dict.fromkeys(keys, (None, None, None))
    for n, key in enumerate(answer[ENTITY]):
        values = {name: answer[name][n] for name in FEATURES}
        if values["profile_version"] is not None and values["n"] is not None:
            found[key] = (values["profile_version"], DeviceProfile.from_dict(values | {ENTITY: key}), _event(answer["profile_version__ts"][n]))
    return found


def _event(value: Any) -> datetime:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) else value.astimezone(UTC)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time, over processes; released by the kernel when the holder dies."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
