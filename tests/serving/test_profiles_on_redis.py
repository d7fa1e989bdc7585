"""The server reads profiles from a real Redis: it decides, abstains with a reason of its own while Redis is away, and decides again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from components.core.inference_log import read_log
from feature_store.store import online_place, publish, write_profiles
from tests.redis_server import RedisServer, needs_redis
from tests.serving.small_dicom import image
from tests.serving.small_package import POOL, build, lung_nodule, reference
from tests.serving.small_server import free_port, started

DEVICE = "0123456789abcdef"
ARRAY = image()[:52, :52][None].astype(np.float32).tolist()


@needs_redis
def test_a_redis_that_goes_and_comes_back_while_the_server_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    redis = RedisServer(tmp_path / "redis")
    monkeypatch.setenv("DXFLOW_ONLINE_STORE", redis.url.replace("//", "//:hunter2@"))
    package = build(tmp_path / "package", lung_nodule(), reference({DEVICE: ("SIEMENS", "SOMATOM FORCE")}, patients=3))
    write_profiles(tmp_path / "f", [POOL.to_dict() | {"device_key": DEVICE, "software": "", "event_timestamp": None}])
    port = free_port()
    code = (
        "from pathlib import Path; from pipelines.models import source; from serving.options import Options; from serving.server import serve; "
        f"serve([source({str(package.folder)!r}, allow_synthetic=False)], Options(log=Path({str(tmp_path / 'log')!r}), port={port}))"
    )
    with started(code, tmp_path, port=port, ready="/v2/health/ready") as server:  # while Redis is not there: the server comes up and says so
        assert f"redis://127.0.0.1:{redis.port}/0: the online store cannot be reached" in server.output.read_text()

        def ask(n: int = 1) -> list[dict[str, Any]]:
            instances = [{"array": ARRAY, "device_key": DEVICE}] * n
            reply = httpx.post(f"{server.url}/v1/models/lung-nodule:predict", json={"instances": instances}, timeout=60)
            assert reply.status_code == 200, reply.text
            return reply.json()["predictions"]

        def until_decided() -> None:
            deadline = time.monotonic() + 60
            while ask()[0]["abstain"]:
                assert time.monotonic() < deadline
                time.sleep(0.1)

        assert {tuple(a["reasons"]) for a in ask(20)} == {("profile store unavailable",)}
        monkeypatch.setenv("DXFLOW_ONLINE_STORE", redis.url)
        redis.settings["requirepass"] = "hunter2"
        monkeypatch.setenv("DXFLOW_ONLINE_STORE_PASSWORD", "hunter2")
        with redis:
            publish(tmp_path / "f", online=online_place(package.name))
            until_decided()
        assert ask()[0]["device"] == {
            "key": DEVICE, "manufacturer": "SIEMENS", "model": "SOMATOM FORCE", "status": "known", "profile": "unavailable"
        }  # fmt: skip
        log = read_log(server.log)
        assert set(log["status"]) == {"abstained", "answered"}
        assert "unavailable" in set(log["profile"])
    kept = server.output.read_bytes() + b"".join(p.read_bytes() for p in server.log.glob("*"))
    assert b"hunter2" not in kept
    assert b"Traceback" not in kept
