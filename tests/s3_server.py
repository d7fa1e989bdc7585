"""A real S3 server for tests: MinIO itself where its binary is found, else moto.

moto takes any credentials, keeps nothing over a restart and has no TLS: tests that need those carry `needs_minio`.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.serving.small_server import free_port

AWS = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION", "ENDPOINT_URL", "ENDPOINT_URL_S3", "CA_BUNDLE", "PROFILE")


def minio_binary() -> str | None:
    """`minio` on PATH, in GOBIN or in ~/go/bin, where `go install github.com/minio/minio@latest` puts it."""
    folders = [os.environ.get("GOBIN", ""), str(Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin")]
    return shutil.which("minio") or shutil.which("minio", path=os.pathsep.join(filter(None, folders)))


needs_minio = pytest.mark.skipif(minio_binary() is None, reason="MinIO not found (go install github.com/minio/minio@latest); moto cannot show this")


def die_with_us() -> None:
    """In the server's process, before it becomes one: the kernel kills it when the test's process goes, whatever takes that away (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class S3Server:
    """One server process on a loopback port; it can be killed and started again on the same port and data.

    Args:
        folder: Where MinIO keeps its data.
        certs: Folder with `public.crt` and `private.key`: TLS.
    """

    def __init__(self, folder: Path, *, certs: Path | None = None) -> None:
        self.folder, self.certs, self.port = folder, certs, free_port()
        self.user, self.password = "dxflow-tests", secrets.token_hex(16)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.certs else 'http'}://127.0.0.1:{self.port}"

    def start(self) -> S3Server:
        binary = minio_binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        if binary:
            command = [binary, "server", "--quiet", "--address", f"127.0.0.1:{self.port}"]
            command += ["--certs-dir", str(self.certs)] if self.certs else []
            command.append(str(self.folder))
        else:
            command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MINIO_"))}
        settings = {"MINIO_ROOT_USER": self.user, "MINIO_ROOT_PASSWORD": self.password, "MINIO_BROWSER": "off", "MINIO_UPDATE": "off"}
        with open(self.folder.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen(
                command, env={**plain, **settings}, stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_us
            )
        end = time.monotonic() + 30
        try:
            while not self._ready():
                if time.monotonic() > end or self.process.poll() is not None:
                    raise RuntimeError(f"the S3 server did not start: {self.folder.with_suffix('.log').read_text(errors='replace')[-800:]}")
                time.sleep(0.05)
        except BaseException:
            self.kill()
            raise
        return self

    def _ready(self) -> bool:
        path = "/minio/health/ready" if minio_binary() else "/"
        trusting = ssl._create_unverified_context()
        with suppress(OSError), urllib.request.urlopen(self.url + path, timeout=2, context=trusting) as answer:
            return answer.status == 200
        return False

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def client(self) -> Any:
        """An administrator's client, which knows nothing of our checksums. Plain HTTP only."""
        import urllib3
        from minio import Minio

        # A MinIO that has just started says 503 with "Retry-After: 60", and is there a moment later.
        soon = urllib3.Retry(total=10, backoff_factor=0.1, status_forcelist=[503], allowed_methods=None, respect_retry_after_header=False)
        pool = urllib3.PoolManager(retries=soon)
        host = f"127.0.0.1:{self.port}"
        return Minio(host, access_key=self.user, secret_key=self.password, secure=False, region="us-east-1", http_client=pool)

    def environment(self, monkeypatch: pytest.MonkeyPatch, *, url: str | None = None) -> None:
        """Point the usual AWS variables here, and nowhere else."""
        clear_aws(monkeypatch)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", self.user)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", self.password)
        monkeypatch.setenv("AWS_ENDPOINT_URL", url or self.url)


def clear_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """No AWS settings from outside."""
    for name in AWS:
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One server with a bucket `models` for the whole session."""
    server = S3Server(tmp_path_factory.mktemp("s3") / "data").start()
    try:
        server.client().make_bucket("models")
        yield server
    finally:
        server.kill()


class Gate:
    """A TCP relay before a server that stops relaying after so many bytes, so that a test can act in the middle of a transfer.

    Args:
        port: The server's.
        up: Bytes from clients after which everything waits for `open`.
        down: The same for bytes to clients.
        turned: Bytes on their way to clients of which one bit is turned, wherever they stand.
    """

    def __init__(self, port: int, *, up: int = 1 << 60, down: int = 1 << 60, turned: bytes = b"") -> None:
        self._target, self._left, self._turned = port, {"up": up, "down": down}, turned
        self.reached, self._open = threading.Event(), threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Drop every connection; new ones pass without a limit."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.set()

    def open(self) -> None:
        """Let what waits go on."""
        self._open.set()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    client.close()
                    continue
                self._sockets += [client, server]
                for way, source, sink in (("up", client, server), ("down", server, client)):
                    threading.Thread(target=self._relay, args=(way, source, sink), daemon=True).start()

    def _relay(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while block := source.recv(1 << 16):
                self._left[way] -= len(block)
                if self._left[way] < 0 and not self._open.is_set():
                    self.reached.set()
                    self._open.wait()
                if way == "down" and self._turned:
                    block = block.replace(self._turned, bytes([self._turned[0] ^ 1]) + self._turned[1:])
                sink.sendall(block)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
