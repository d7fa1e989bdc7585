"""Profiles are read as of the sample's time offline, and as ok, missing or stale online."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from components.core.devices import DeviceProfile
from components.core.errors import DataError, ServiceError
from components.core.pseudonym import UNKNOWN_DEVICE
from feature_store import store
from feature_store.store import OnlineProfiles, profile_version, profiles_at, publish, write_profiles

OLD = DeviceProfile("scanner-a", "1", 10, -600.0, 300.0, -1000.0, -700.0, 200.0, 20.0, 0.1)
NEW = replace(OLD, software="2", mean=-500.0)
OTHER = replace(OLD, device_key="scanner-b", software="", mean=-400.0)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def rows() -> list[dict[str, object]]:
    return [
        OLD.to_dict() | {"event_timestamp": at("2020-01-01")},
        NEW.to_dict() | {"event_timestamp": at("2021-01-01")},
        OTHER.to_dict() | {"event_timestamp": None},
    ]


def manifest(*samples: tuple[str, str | None]) -> pd.DataFrame:
    return pd.DataFrame({"device_key": [d for d, _ in samples], "acquired_at": pd.to_datetime([t for _, t in samples], utc=True)})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_profiles(tmp_path / "features", rows())
    return tmp_path / "features"


def test_each_sample_gets_the_profile_that_held_when_it_was_acquired(folder: Path) -> None:
    """Before the first software: none. On the day of an update: the new one. Without a date: the newest. The order is the manifest's."""
    asked = manifest(
        ("scanner-a", "2021-06-01"), ("scanner-a", "2019-12-31"), ("scanner-b", "2020-01-01"), ("scanner-a", "2020-06-01"),
        ("never-seen", "2020-06-01"), ("scanner-a", "2021-01-01"), ("scanner-a", None), ("scanner-b", None), ("scanner-a", "2021-06-01"),
    )  # fmt: skip
    asked.index = pd.Index(range(90, 99))
    assert profiles_at(folder, asked) == [NEW, None, OTHER, OLD, None, NEW, NEW, OTHER, NEW]


def test_twenty_thousand_samples_come_back_twenty_thousand_times(tmp_path: Path) -> None:
    """Feast's default join returned 1,197 of 20,000 rows; ours returns all, each with its own device's profile."""
    profiles = [replace(OLD, device_key=f"d{i:02d}", mean=float(i)) for i in range(40)]
    write_profiles(tmp_path / "f", [p.to_dict() | {"event_timestamp": at("2020-01-01")} for p in profiles])
    rng = np.random.default_rng(0)
    device = rng.integers(0, 40, 20_000)
    day = pd.Timestamp("2020-01-02", tz=UTC) + pd.to_timedelta(rng.integers(0, 1000, 20_000), unit="D")
    got = profiles_at(tmp_path / "f", pd.DataFrame({"device_key": [f"d{i:02d}" for i in device], "acquired_at": day}))
    assert [p.mean for p in got if p is not None] == [float(i) for i in device]


def test_a_later_measurement_is_not_seen_by_samples_acquired_before_it(tmp_path: Path) -> None:
    """A re-measurement of an old software version counts from when it was made, not from when the software began."""
    again = replace(OLD, mean=-650.0).to_dict() | {"event_timestamp": at("2020-01-01"), "created_timestamp": at("2022-01-01")}
    write_profiles(tmp_path / "f", [rows()[0], again])
    means = [p and p.mean for p in profiles_at(tmp_path / "f", manifest(("scanner-a", "2021-01-01"), ("scanner-a", "2023-01-01")))]
    assert means == [-600.0, -650.0]


def test_the_same_rows_in_any_order_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_profiles(tmp_path / "again", rows()[::-1])
    for name in ("device_profile.parquet", "features.json"):
        assert hashlib.sha256((folder / name).read_bytes()).digest() == hashlib.sha256((tmp_path / "again" / name).read_bytes()).digest()


def test_the_folder_can_be_moved_and_is_never_written_to(folder: Path, tmp_path: Path) -> None:
    """KFP moves artifacts and mounts inputs read-only: no path is kept in the folder, nothing is added to it."""
    moved = tmp_path / "elsewhere" / "f"
    moved.parent.mkdir()
    shutil.move(folder, moved)
    before = sorted(p.name for p in moved.iterdir())
    assert profiles_at(moved, manifest(("scanner-a", "2020-06-01"))) == [OLD]
    publish(moved, online=tmp_path / "online")
    assert sorted(p.name for p in moved.iterdir()) == before
    assert not any(str(tmp_path).encode() in p.read_bytes() for p in [*moved.iterdir(), *(tmp_path / "online").iterdir()])


def test_a_store_without_devices_answers_none_and_missing(tmp_path: Path) -> None:
    write_profiles(tmp_path / "f", [])
    assert profiles_at(tmp_path / "f", manifest(("scanner-a", "2020-06-01"))) == [None]
    publish(tmp_path / "f", online=tmp_path / "online")
    assert OnlineProfiles(tmp_path / "online").get("scanner-a", max_age_days=1).status == "missing"


def test_samples_that_name_no_device_have_no_profile(tmp_path: Path) -> None:
    """Offline and online alike: the common figures of unnamed devices describe none of them."""
    write_profiles(tmp_path / "f", [replace(OLD, device_key=UNKNOWN_DEVICE).to_dict() | {"event_timestamp": None}])
    assert profiles_at(tmp_path / "f", manifest((UNKNOWN_DEVICE, "2020-06-01"))) == [None]
    publish(tmp_path / "f", online=tmp_path / "online")
    assert OnlineProfiles(tmp_path / "online").get(UNKNOWN_DEVICE, max_age_days=9).status == "missing"


@pytest.mark.parametrize("spoil", ["absent", "text", "columns"])
def test_a_folder_that_is_no_feature_store_is_a_data_error(folder: Path, spoil: str) -> None:
    file = folder / "device_profile.parquet"
    if spoil == "absent":
        file.unlink()
    elif spoil == "text":
        file.write_text("device_key,n\n")
    else:
        pd.DataFrame({"device_key": ["a"]}).to_parquet(file)
    with pytest.raises(DataError, match="feature store"):
        profiles_at(folder, manifest(("scanner-a", "2020-06-01")))


def test_two_profiles_of_one_device_at_one_time_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two profiles of one device"):
        write_profiles(tmp_path / "f", [rows()[0], NEW.to_dict() | {"event_timestamp": at("2020-01-01")}])
    assert not (tmp_path / "f").exists()


def test_a_time_without_a_zone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="zone"):
        write_profiles(tmp_path / "f", [OLD.to_dict() | {"event_timestamp": datetime(2020, 1, 1)}])


def test_the_server_reads_the_newest_profile_and_its_age(folder: Path, tmp_path: Path) -> None:
    online = tmp_path / "online"
    now = at("2026-01-01")
    reader = OnlineProfiles(online)
    assert reader.get("scanner-a", max_age_days=30).status == "missing"  # asked before anything was published
    assert publish(folder, online=online, now=now) == profile_version(folder)
    answer = reader.get("scanner-a", max_age_days=30, now=now + timedelta(days=29))
    assert (answer.status, answer.profile, round(answer.age_days or 0)) == ("ok", NEW, 29)
    assert reader.get("scanner-b", max_age_days=30, now=now).profile == OTHER


def test_an_old_profile_is_stale_and_an_unknown_device_is_missing(folder: Path, tmp_path: Path) -> None:
    """Feast itself answers an expired row as if it were fresh; the age limit is ours."""
    now = at("2026-01-01")
    publish(folder, online=tmp_path / "online", now=now)
    reader = OnlineProfiles(tmp_path / "online")
    assert reader.get("scanner-a", max_age_days=30, now=now + timedelta(days=31)).status == "stale"
    missing = reader.get("never-seen", max_age_days=30, now=now)
    assert (missing.status, missing.profile, missing.age_days) == ("missing", None, None)


def test_publishing_again_changes_nothing_and_a_new_measurement_replaces_the_old(folder: Path, tmp_path: Path) -> None:
    """A copy of an old measurement stays as old as it was; a new one starts at zero."""
    online, first, later = tmp_path / "online", at("2026-01-01"), at("2026-03-02")
    publish(folder, online=online, now=first)
    reader = OnlineProfiles(online)
    publish(folder, online=online, now=later)
    assert reader.get("scanner-a", max_age_days=365, now=later).age_days == 60
    write_profiles(tmp_path / "next", [*rows(), replace(NEW, mean=-450.0).to_dict() | {"event_timestamp": at("2022-01-01")}])
    assert publish(tmp_path / "next", online=online, now=later) != profile_version(folder)
    answer = reader.get("scanner-a", max_age_days=365, now=later)
    assert (answer.profile and answer.profile.mean, answer.age_days) == (-450.0, 0)
    assert reader.get("scanner-b", max_age_days=365, now=later).age_days == 60


def test_processes_that_publish_at_once_leave_one_whole_answer(folder: Path, tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from feature_store.store import publish; publish(Path(sys.argv[1]), online=Path(sys.argv[2]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    racing = [
        subprocess.Popen([sys.executable, "-c", code, folder, tmp_path / "online"], env=environment, stderr=subprocess.DEVNULL) for _ in range(2)
    ]
    assert [p.wait() for p in racing] == [0, 0]
    assert OnlineProfiles(tmp_path / "online").get("scanner-a", max_age_days=1).profile == NEW


def test_each_package_has_its_own_online_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path))
    assert store.online_folder("synthetic/lung-nodule") == tmp_path / "features" / "synthetic" / "lung-nodule"
    assert store.online_folder("synthetic/lung-nodule") != store.online_folder("lung-nodule")


def test_a_locked_store_is_away_and_not_waited_for(folder: Path, tmp_path: Path) -> None:
    """A backup holds it for a minute; a request of many samples must not wait five seconds for each."""
    publish(folder, online=tmp_path / "online")
    profiles = OnlineProfiles(tmp_path / "online")
    key = pd.read_parquet(folder / store.OFFLINE)["device_key"].iloc[0]
    assert profiles.get(key, max_age_days=1).profile is not None
    with closing(sqlite3.connect(tmp_path / "online" / store.ONLINE, isolation_level=None)) as db:
        db.execute("begin exclusive")
        with pytest.raises(ServiceError, match="online store cannot be used; got OperationalError"):
            profiles.get(key, max_age_days=1)
        (wait_ms,) = profiles._store._get_provider().online_store._get_conn(profiles._store.config).execute("pragma busy_timeout").fetchone()
        assert wait_ms == 200
        profiles._away = (float("inf"), profiles._away[1]) if profiles._away else None
        db.execute("rollback")
    with pytest.raises(ServiceError, match="online store cannot be used"):  # held off: it is not asked again for a while
        profiles.get(key, max_age_days=1)
    profiles._away = None
    assert profiles.get(key, max_age_days=1).profile is not None
