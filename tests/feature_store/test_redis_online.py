"""Redis as online store gives the answers that SQLite gives, keeps packages apart, and is never silent about being away. A real redis-server."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.core.devices import DeviceProfile
from components.core.errors import ServiceError, SpecError
from feature_store import redis_online, store
from feature_store.redis_online import RedisAddress, RedisPlace
from feature_store.store import OnlineProfiles, ProfileAnswer, online_place, publish, write_profiles
from tests.redis_server import RedisServer, needs_redis
from tests.serving.small_server import free_port

OLD = DeviceProfile("scanner-a", "1", 10, -600.0, 300.0, -1000.0, -700.0, 200.0, 20.0, 0.1)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "pa,ss=7 wörd"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


def at(server: RedisServer, package: str) -> RedisPlace:
    return RedisPlace(RedisAddress("127.0.0.1", server.port), package)


def features(folder: Path, *profiles: DeviceProfile) -> Path:
    write_profiles(folder, [p.to_dict() | {"event_timestamp": None} for p in profiles])
    return folder


@needs_redis
@pytest.mark.parametrize("seed", range(3))
def test_the_same_publishes_and_reads_give_the_same_answers_on_sqlite_and_redis(server: RedisServer, tmp_path: Path, seed: int) -> None:
    """Random sequences over two packages and four devices; also against a model of what the answer should be."""
    rng = random.Random(seed)
    packages = (f"synthetic/lung-{seed}", f"lung-{seed}")
    places: dict[str, tuple[Path | RedisPlace, ...]] = {p: (tmp_path / p.replace("/", "_"), at(server, p)) for p in packages}
    readers = {p: [OnlineProfiles(place) for place in places[p]] for p in packages}
    known: dict[tuple[str, str], tuple[DeviceProfile, datetime]] = {}
    statuses = []
    for step in range(14):
        package, now = rng.choice(packages), NOW + timedelta(days=rng.randrange(200))  # clocks of publishers disagree: times go back, too
        if step % 3 == 0:
            measured = [replace(OLD, device_key=f"d{d}", mean=float(rng.randrange(3)), noise_sd=0.0) for d in range(3) if rng.random() < 0.7]
            folder = features(tmp_path / f"f{step}", *measured)
            assert len({publish(folder, online=place, now=now) for place in places[package]}) == 1
            for p in measured:
                if (package, p.device_key) not in known or known[package, p.device_key][0] != p:
                    known[package, p.device_key] = (p, now)
        for device in ("d0", "d1", "d2", "never-seen"):
            sqlite, redis = (reader.get(device, max_age_days=60, now=now) for reader in readers[package])
            assert sqlite == redis
            wanted = known.get((package, device))
            assert sqlite.profile == (wanted and wanted[0])
            if wanted:
                age = max(0.0, (now - wanted[1]) / timedelta(days=1))
                assert (sqlite.status, sqlite.age_days) == ("stale" if age > 60 else "ok", age)
            statuses.append(sqlite.status)
    assert set(statuses) == {"ok", "missing", "stale"}


@needs_redis
def test_one_packages_profiles_never_answer_for_another(server: RedisServer, tmp_path: Path) -> None:
    names = ("lung-nodule", "synthetic/lung-nodule", "lung_nodule", "lungnodule", "lung", "nodule")
    for n, name in enumerate(names):
        if n % 2 == 0:
            publish(features(tmp_path / str(n), replace(OLD, mean=float(n))), online=at(server, name), now=NOW)
    answers = [OnlineProfiles(at(server, name)).get("scanner-a", max_age_days=9, now=NOW) for name in names]
    assert [a.profile and a.profile.mean for a in answers] == [0.0, None, 2.0, None, 4.0, None]
    assert {a.status for a in answers[1::2]} == {"missing"}
    assert len({redis_online.project(name) for name in names}) == len(names)


@needs_redis
def test_a_write_from_a_clock_that_is_behind_is_not_lost(server: RedisServer, tmp_path: Path) -> None:
    """Feast's own Redis store drops it without a word, since its time is older than the row's."""
    place = at(server, "behind")
    publish(features(tmp_path / "a", OLD), online=place, now=NOW)
    publish(features(tmp_path / "b", replace(OLD, mean=-1.0)), online=place, now=NOW - timedelta(minutes=5))
    found = OnlineProfiles(place).get("scanner-a", max_age_days=9, now=NOW).profile
    assert found is not None
    assert found.mean == -1.0


@needs_redis
def test_two_publishers_at_once_leave_whole_profiles_of_one_of_them(server: RedisServer, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from feature_store.store import publish, online_place; "
        "publish(Path(sys.argv[1]), online=online_place('race'))"
    )
    keys = [f"d{n}" for n in range(20)]
    for name, level in (("a", 1.0), ("b", 2.0)):
        features(tmp_path / name, *(replace(OLD, device_key=key, mean=level, p50=level, p99=level + 1) for key in keys))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DXFLOW_ONLINE_STORE": server.url}
    racing = [subprocess.Popen([sys.executable, "-c", code, tmp_path / name], env=environment, stderr=subprocess.DEVNULL) for name in "ab"]
    assert [p.wait() for p in racing] == [0, 0]
    reader = OnlineProfiles(at(server, "race"))
    found = [reader.get(key, max_age_days=1).profile for key in keys]
    assert {(p.mean, p.p50, p.p99) for p in found if p is not None} in ({(1.0, 1.0, 2.0)}, {(2.0, 2.0, 3.0)})
    assert None not in found


@needs_redis
def test_a_store_that_goes_away_is_an_error_within_a_second_and_comes_back_by_itself(tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "own")
    place = at(server, "lung-nodule")
    reader = OnlineProfiles(place)
    with server:
        publish(features(tmp_path / "f", OLD), online=place, now=NOW)
        assert reader.get("scanner-a", max_age_days=9, now=NOW).status == "ok"
    with pytest.raises(ServiceError, match="the online store cannot be reached") as caught:
        reader.get("scanner-a", max_age_days=9, now=NOW)
    assert str(caught.value).startswith(f"redis://127.0.0.1:{server.port}/0: ")
    with pytest.raises(ServiceError, match="cannot be reached"):  # not asked again at once
        reader.get("never-seen", max_age_days=9, now=NOW)
    with pytest.raises(ServiceError, match="cannot be reached"):
        publish(tmp_path / "f", online=place)
    with server:
        publish(tmp_path / "f", online=place, now=NOW)
        deadline = time.monotonic() + 60
        answer: ProfileAnswer | None = None
        while answer is None and time.monotonic() < deadline:
            try:
                answer = reader.get("scanner-a", max_age_days=9, now=NOW)
            except ServiceError:
                time.sleep(0.05)
        assert answer == ProfileAnswer("ok", OLD, 0.0)


def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait is ours and short: the same read under a bound of an hour would outlast any test."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = RedisPlace(RedisAddress("127.0.0.1", silent.getsockname()[1]), "p")
        with pytest.raises(ServiceError, match="does not answer in time"):
            OnlineProfiles(place).get("scanner-a", max_age_days=9)
        monkeypatch.setattr(store, "SERVER_WAIT_S", 3600.0)  # as behind a name server that hangs, which no socket's limit bounds
        with pytest.raises(ServiceError, match="does not answer in time"):
            OnlineProfiles(place).get("scanner-a", max_age_days=9)


@needs_redis
def test_the_password_opens_the_store_and_stands_in_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a comma, an equals sign and a blank, on which Feast's own line of settings breaks."""
    from urllib.parse import quote

    with RedisServer(tmp_path / "own", requirepass=SECRET) as server:
        monkeypatch.setenv("DXFLOW_ONLINE_STORE", f"redis://:{quote(SECRET)}@127.0.0.1:{server.port}/3")
        place = online_place("lung-nodule")
        assert SECRET not in f"{place} {place!r}"
        publish(features(tmp_path / "f", OLD), online=place, now=NOW)
        assert OnlineProfiles(place).get("scanner-a", max_age_days=9, now=NOW).profile == OLD
        monkeypatch.setenv("DXFLOW_ONLINE_STORE", f"redis://127.0.0.1:{server.port}/3")
        monkeypatch.setenv("DXFLOW_ONLINE_STORE_PASSWORD", SECRET)
        assert online_place("lung-nodule") == place
        redis_online.ping(place.address)  # type: ignore[union-attr]
        for wrong in ("wrong-secret", ""):
            monkeypatch.setenv("DXFLOW_ONLINE_STORE_PASSWORD", wrong)
            with pytest.raises(ServiceError, match="refuses the user or the password") as caught:
                publish(tmp_path / "f", online=online_place("lung-nodule"))
            assert "secret" not in str(caught.value)


@needs_redis
def test_tls_needs_a_trusted_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.core.test_storage_s3 import make_certificates

    authority, port = make_certificates(tmp_path / "certs"), str(free_port())
    keys = {"tls-port": port, "tls-cert-file": str(tmp_path / "certs/public.crt"), "tls-key-file": str(tmp_path / "certs/private.key")}
    with RedisServer(tmp_path / "own", **keys, **{"tls-ca-cert-file": str(authority), "tls-auth-clients": "no"}):
        monkeypatch.setenv("DXFLOW_ONLINE_STORE", f"rediss://127.0.0.1:{port}/0")
        with pytest.raises(ServiceError, match="cannot be reached"):
            publish(features(tmp_path / "f", OLD), online=online_place("p"))
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        publish(tmp_path / "f", online=online_place("p"), now=NOW)
        assert OnlineProfiles(online_place("p")).get("scanner-a", max_age_days=9, now=NOW).profile == OLD


@pytest.mark.parametrize(
    "text", ["hunter2", "http://hunter2@host/", "redis://", "redis://hunter2@host:port/", "redis://host/hunter2", "redis://[hunter2/", "redis://h?password=hunter2"]
)  # fmt: skip
def test_an_address_that_is_none_is_refused_without_being_repeated(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_ONLINE_STORE", text)
    with pytest.raises(SpecError, match="DXFLOW_ONLINE_STORE: not the address of an online store; allowed: sqlite, redis://") as caught:
        online_place("p")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "sqlite"])
def test_sqlite_is_the_default(text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path))
    monkeypatch.setenv("DXFLOW_ONLINE_STORE", text)
    assert online_place("synthetic/lung-nodule") == tmp_path / "features" / "synthetic" / "lung-nodule"


def test_a_broken_sqlite_store_is_an_error_and_not_a_missing_profile(tmp_path: Path) -> None:
    publish(features(tmp_path / "f", OLD), online=tmp_path / "online")
    (tmp_path / "online" / store.ONLINE).write_bytes(b"no database" * 100)
    with pytest.raises(ServiceError, match="the online store cannot be used"):
        OnlineProfiles(tmp_path / "online").get("scanner-a", max_age_days=9)


def test_doctor_names_the_online_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pipelines.doctor import findings

    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path))

    def row() -> Any:
        return next((r["state"], r["found"]) for r in findings() if r["check"] == "online store")

    monkeypatch.delenv("DXFLOW_ONLINE_STORE", raising=False)
    assert row() == ("ok", "SQLite in DXFLOW_HOME")
    port = free_port()
    monkeypatch.setenv("DXFLOW_ONLINE_STORE", f"redis://someone:hunter2@127.0.0.1:{port}/1")
    state, found = row()
    assert (state, found) == ("bad", f"redis://127.0.0.1:{port}/1: the online store cannot be reached; got ConnectionError")
