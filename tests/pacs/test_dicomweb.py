"""The client against a server that misbehaves: sizes, redirects, rubbish, half answers. Every one is one line without a value of the answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest

from components.core.errors import DataError, ServiceError
from serving.pacs import dicomweb
from serving.pacs.dicomweb import DicomWeb, Refused
from serving.pacs.multipart import boundary_of, joined, split

SECRET = "Miller^Jonathan"


class Handler(BaseHTTPRequestHandler):
    """Answers everything with `answer`: status, headers, body."""

    answer: ClassVar[tuple[int, dict[str, str], bytes]] = (200, {}, b"[]")
    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        status, headers, body = self.answer
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[DicomWeb]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Handler.paths.clear()
    client = DicomWeb(f"http://127.0.0.1:{server.server_port}/root", timeout_s=20)
    yield client
    client.close()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        ((302, {"Location": "http://127.0.0.1:1/elsewhere"}, b""), ServiceError, "redirects, which is not followed"),
        ((401, {}, SECRET.encode()), ServiceError, "refuses the credentials"),
        ((404, {}, SECRET.encode()), Refused, "refuses a request; got HTTP 404"),
        ((503, {}, SECRET.encode()), ServiceError, "cannot answer now; got HTTP 503"),
        ((200, {}, f"<html>{SECRET}".encode()), ServiceError, "something else than DICOM JSON"),
        ((200, {}, json.dumps({"name": SECRET}).encode()), ServiceError, "something else than DICOM JSON"),
        ((200, {"Content-Length": "999"}, b"[]"), ServiceError, "cannot be reached; got RemoteProtocolError"),
    ],
)
def test_a_bad_answer_is_one_line(web: DicomWeb, answer: Any, kind: type[Exception], text: str):
    Handler.answer = answer
    with pytest.raises(kind) as caught:
        list(web.studies(None))
    assert text in str(caught.value)
    assert SECRET not in str(caught.value)
    assert len(Handler.paths) == 1


def test_an_answer_without_end_is_cut_off(web: DicomWeb, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dicomweb, "SERIES_BYTES", 1 << 20)
    Handler.answer = (200, {"Content-Type": 'multipart/related; boundary="x"'}, b"\0" * (2 << 20))
    with pytest.raises(DataError, match="over the limit; allowed: 1 MB"):
        web.images("1.2", "1.3")


def test_half_of_a_series_is_no_series(web: DicomWeb):
    body, content_type = joined([b"one", b"two"])
    Handler.answer = (200, {"Content-Type": content_type}, body)
    assert web.images("1.2", "1.3") == [b"one", b"two"]
    Handler.answer = (200, {"Content-Type": content_type}, body[:-10])
    with pytest.raises(ServiceError, match="the answer was cut off"):
        web.images("1.2", "1.3")


def test_a_server_that_ignores_pages_does_not_keep_us_for_ever(web: DicomWeb):
    rows = [{"0020000D": {"vr": "UI", "Value": [f"1.2.{n}"]}} for n in range(dicomweb.PAGE)]
    Handler.answer = (200, {}, json.dumps(rows).encode())
    assert len(list(web.studies(None))) == dicomweb.PAGE
    assert len(Handler.paths) == 2


def test_a_uid_that_is_a_path_is_never_asked_for(web: DicomWeb):
    with pytest.raises(DataError, match="not a UID"):
        web.series("../../system")
    assert Handler.paths == []


def test_objects_that_are_not_taken_are_counted_with_the_archives_reason(web: DicomWeb):
    failed = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}, "00100010": {"vr": "PN", "Value": [SECRET]}}]}}
    Handler.answer = (200, {}, json.dumps(failed).encode())
    with pytest.raises(Refused, match="the archive refuses objects; got 1 of 2, failure reason 272"):
        web.store("1.2", [b"a", b"b"])


def test_parts_come_out_as_they_went_in_whatever_they_hold():
    files = [b"", b"\r\n--", bytes(range(256)) * 10, b"--x--\r\n\r\n"]
    body, content_type = joined(files)
    assert split(body, boundary_of(content_type)) == files
