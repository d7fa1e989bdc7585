"""A server on this machine is asked directly; an error elsewhere names the proxy, and never its password. With a real proxy on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from components.core.errors import ServiceError
from serving import client

ANSWER = b'{"predictions": [{"said": "by the server"}]}'


@contextmanager
def listening(answer: bytes) -> Iterator[tuple[int, list[str]]]:
    """An HTTP server that says `answer` to everything, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, list[str]]]:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    with listening(b'{"predictions": [{"said": "by the proxy"}]}') as (port, asked):
        monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{port}")
        yield port, asked


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.2"])
def test_no_picture_leaves_for_a_proxy_where_the_server_is_this_machine(host: str, proxied: tuple[int, list[str]]):
    with listening(ANSWER) as (port, asked):
        bound = "127.0.0.1" if host == "127.0.0.2" else host
        assert client.ask(f"http://{bound}:{port}", "m", b"{}", {}, 10) == [{"said": "by the server"}]
    assert asked == ["/v1/models/m:predict"]
    assert proxied[1] == []
    assert client.proxy_of(f"http://{host}:8080") is None


def test_elsewhere_the_environments_proxy_is_used(proxied: tuple[int, list[str]]):
    assert client.ask("http://pacs.example:8080", "m", b"{}", {}, 10) == [{"said": "by the proxy"}]
    assert proxied[1] == ["http://pacs.example:8080/v1/models/m:predict"]


def test_an_error_names_the_proxy_and_not_its_password(proxied: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch):
    with socket.socket() as taken:  # bound and not listening: refused, whoever asks
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("http_proxy", f"http://user:secret@127.0.0.1:{port}")
        with pytest.raises(ServiceError) as error:
            client.ask("http://pacs.example:8080", "m", b"{}", {}, 10)
        assert f"no answer from the server through the proxy 127.0.0.1:{port} that the environment names" in str(error.value)
        assert "secret" not in str(error.value)
        with pytest.raises(ServiceError) as error:
            client.ask(f"http://127.0.0.1:{port}", "m", b"{}", {}, 10)
    assert "proxy" not in str(error.value)


def test_no_proxy_is_kept_to(proxied: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "pacs.example")
    assert client.proxy_of("http://pacs.example:8080") is None
    assert client.proxy_of("http://other.example:8080") == f"127.0.0.1:{proxied[0]}"


def test_a_proxy_that_is_not_followed_is_not_named(proxied: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch):
    """Python's own client knows no ALL_PROXY: it asked the server directly, and the error blamed the proxy."""
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxied[0]}")
    with pytest.raises(ServiceError) as error:
        client.ask("http://nowhere.invalid:8080", "m", b"{}", {}, 10)
    assert "proxy" not in str(error.value)
    assert proxied[1] == []


def test_an_answer_of_another_form_is_one_line(proxied: tuple[int, list[str]]):
    with listening(b'["no server of ours"]') as (port, _), pytest.raises(ServiceError, match="no answer from the server"):
        client.ask(f"http://127.0.0.1:{port}", "m", b"{}", {}, 10)
