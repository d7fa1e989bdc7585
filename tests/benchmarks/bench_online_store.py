"""What a request waits for its device's profile: `OnlineProfiles.get` on SQLite and on a Redis server on loopback, 50 devices, one reader."""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.redis_server import RedisServer

DEVICES, READS, ROUNDS = 50, 1000, 3


def run() -> list[dict[str, Any]]:
    """p50 and p99 of each, from rounds in turns; of three rounds the one with the lowest p50."""
    from components.core.devices import DeviceProfile
    from feature_store.redis_online import RedisAddress, RedisPlace
    from feature_store.store import OnlineProfiles, publish, write_profiles

    if shutil.which("redis-server") is None:
        return []
    profile = DeviceProfile("d", "1", 10, -600.0, 300.0, -1000.0, -700.0, 200.0, 20.0, 0.1)
    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name) / "redis") as server:
        folder = Path(name)
        write_profiles(folder / "f", [replace(profile, device_key=f"d{n}").to_dict() | {"event_timestamp": None} for n in range(DEVICES)])
        places = {"SQLite": folder / "online", "Redis": RedisPlace(RedisAddress("127.0.0.1", server.port), "bench")}
        published, readers = {}, {}
        for kind, place in places.items():
            publish(folder / "f", online=folder / "warm" if kind == "SQLite" else RedisPlace(RedisAddress("127.0.0.1", server.port), "warm"))
            started = time.perf_counter()
            publish(folder / "f", online=place)
            published[kind] = (time.perf_counter() - started) * 1000
            readers[kind] = OnlineProfiles(place)
        found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in places}
        for _ in range(ROUNDS):
            for kind, reader in readers.items():
                found[kind].append(_round(reader))
    rows = []
    for kind in places:
        p50, p99 = min(found[kind])
        rows += [_row(f"{kind}: a profile read, p50", p50, "ms"), _row(f"{kind}: a profile read, p99", p99, "ms")]
        rows.append(_row(f"{kind}: {DEVICES} devices published", published[kind], "ms"))
    return rows


def _round(reader: Any) -> tuple[float, float]:
    """p50 and p99 of `READS` reads, in milliseconds."""
    reader.get("d0", max_age_days=1)
    times = []
    for n in range(READS):
        started = time.perf_counter()
        answer = reader.get(f"d{n % DEVICES}", max_age_days=1)
        times.append((time.perf_counter() - started) * 1000)
        assert answer.status == "ok"
    return float(np.quantile(times, 0.5)), float(np.quantile(times, 0.99))


def _row(name: str, value: float, unit: str) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "bound": "", "holds": None}
