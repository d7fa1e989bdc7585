"""A real Redis server for tests, on a free loopback port, writing nothing to disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.s3_server import die_with_us
from tests.serving.small_server import free_port

needs_redis = pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server not found (Debian: apt-get install redis-server)")


class RedisServer:
    """One process; it can be stopped and started again on the same port, empty.

    Args:
        folder: Its working folder.
        settings: Further options of redis-server, e.g. `requirepass`.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.port = folder, settings, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> RedisServer:
        options = {"port": str(self.port), "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": str(self.folder)} | self.settings
        command = ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]
        with open(self.folder / "redis.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, preexec_fn=die_with_us)
        for _ in range(1200):
            assert self._process.poll() is None, (self.folder / "redis.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", int(options.get("tls-port", self.port))), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.05)
        raise AssertionError("redis-server did not come up")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
