"""Files by reference, from a real Orthanc and a real S3 server: what comes, what is refused before anybody is asked, and what stays behind."""

from __future__ import annotations

import asyncio
import http.server
import io
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.errors import DataError, DxflowError, ServiceError, SpecError
from serving import bodies, queries
from serving.bodies.body import Body
from serving.multipart import split_parts
from serving.predictor import Query
from serving.references import Allowed, References
from tests.orthanc import PASSWORD, USER, Orthanc, needs_orthanc, orthanc
from tests.s3_server import S3Server, needs_minio
from tests.serving import small_bodies, small_wsi
from tests.serving.fuzzing import PSEUDONYMISER
from tests.serving.small_bodies import BRAIN, FUNDUS, TILES, disease
from tests.serving.small_dicom import ct_slice, image
from tests.serving.small_package import lung_nodule

SHAPE = (40, 48, 20)
STUDY = "studies/2.25.21/series/2.25.22"


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        server.send([*small_bodies.mr_slices(shape=SHAPE), ct_slice(image())])
        yield server


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where scratch files go, which is nowhere else; nothing may stay there."""
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "elsewhere"))
    yield tmp_path / "home"
    assert [*(tmp_path / "elsewhere").iterdir(), *(tmp_path / "home" / "scratch").glob("*")] == []


def allowed(monkeypatch: pytest.MonkeyPatch, hosts: str = "", buckets: str = "", **limits: float) -> Allowed:
    monkeypatch.setenv("DXFLOW_REFERENCE_HOSTS", hosts)
    monkeypatch.setenv("DXFLOW_REFERENCE_BUCKETS", buckets)
    for name, value in limits.items():
        monkeypatch.setenv(f"DXFLOW_REFERENCE_{name}", str(value))
    return Allowed.from_environment()


def ask(lists: Allowed, *references: Any, name: str = BRAIN, **more: Any) -> list[Query]:
    """As a server does it, without the server."""
    spec = lung_nodule() if name == "lung-nodule" else disease(name)
    document = {"instances": [{"reference": reference, **more} for reference in references]}

    async def work() -> list[Query]:
        async with References(lists).fetched(document) as files:
            return queries.from_document(document, spec, PSEUDONYMISER, files)

    return asyncio.run(work())


@needs_orthanc
def test_a_series_of_a_pacs_gives_the_sample_that_its_nifti_gives(pacs: Orthanc, monkeypatch: pytest.MonkeyPatch):
    lists = allowed(monkeypatch, f"http://{USER}:{PASSWORD}@127.0.0.1:{pacs.port}")
    found = ask(lists, f"{pacs.url}/{STUDY}")
    expected = bodies.read(None, Body(small_bodies.nifti(shape=SHAPE)), disease(BRAIN), PSEUDONYMISER)
    np.testing.assert_array_equal(found[0].array, expected[0].array)
    assert found[0].series == PSEUDONYMISER.id("series", "2.25.22")


@needs_orthanc
def test_a_whole_slide_of_a_pacs_is_read_from_all_its_levels(pacs: Orthanc, monkeypatch: pytest.MonkeyPatch):
    pacs.send(small_wsi.files(small_bodies.corner()))
    lists = allowed(monkeypatch, f"http://{USER}:{PASSWORD}@127.0.0.1:{pacs.port}")
    (found,) = ask(lists, f"{pacs.url}/studies/2.25.91/series/{small_wsi.SERIES}", name=TILES)
    assert found.tiles is not None
    assert (len(found.tiles.arrays), found.series) == (72, PSEUDONYMISER.id("series", small_wsi.SERIES))


@needs_orthanc
def test_one_instance_of_a_pacs_gives_the_sample_that_its_file_gives(pacs: Orthanc, monkeypatch: pytest.MonkeyPatch):
    lists = allowed(monkeypatch, f"http://{USER}:{PASSWORD}@127.0.0.1:{pacs.port}")
    found = ask(lists, f"{pacs.url}/studies/2.25.2/series/2.25.3/instances/2.25.1", name="lung-nodule", row=100, column=100)
    expected = bodies.read(None, Body(ct_slice(image()), row=100, column=100), lung_nodule(), PSEUDONYMISER)
    np.testing.assert_array_equal(found[0].array, expected[0].array)


@needs_orthanc
def test_a_wrong_password_an_absent_series_and_too_much_are_said_without_secrets(pacs: Orthanc, monkeypatch: pytest.MonkeyPatch):
    right = f"http://{USER}:{PASSWORD}@127.0.0.1:{pacs.port}"
    for hosts, path, limits, kind, what in (
        (right.replace(PASSWORD, "another-word"), STUDY, {}, ServiceError, "refuses"),
        (right, "studies/2.25.21/series/2.25.99", {}, DataError, "nothing there"),
        (right, STUDY, {"MB": 0.01}, DataError, "larger than allowed"),
    ):
        with monkeypatch.context() as own, pytest.raises(kind, match=what) as error:
            ask(allowed(own, hosts, **limits), f"{pacs.url}/{path}")
        text = str(error.value)
        assert not any(secret in text for secret in (PASSWORD, "another-word", str(pacs.port), "2.25.21", "dicom-web"))
        assert "instances[0].reference" in text


REFUSED = {
    "another host": "http://127.0.0.2:PORT/dicom-web/" + STUDY,
    "another name of the host": "http://localhost:PORT/dicom-web/" + STUDY,
    "another port": "http://127.0.0.1:1/dicom-web/" + STUDY,
    "another scheme": "https://127.0.0.1:PORT/dicom-web/" + STUDY,
    "a file": "file:///etc/passwd",
    "a user": "http://127.0.0.1:PORT@evil.example/dicom-web/" + STUDY,
    "another user": "http://me:you@127.0.0.1:PORT/dicom-web/" + STUDY,
    "a query": f"http://127.0.0.1:PORT/dicom-web/{STUDY}?x=http://evil.example",
    "a fragment": f"http://127.0.0.1:PORT/dicom-web/{STUDY}#x",
    "a step up": "http://127.0.0.1:PORT/../" + STUDY + "/../../../x",
    "an encoded step": "http://127.0.0.1:PORT/%2e%2e/" + STUDY,
    "a backslash": "http://127.0.0.1:PORT\\@evil.example/dicom-web/" + STUDY,
    "no series": "http://127.0.0.1:PORT/dicom-web/studies/2.25.21",
    "something else": "http://127.0.0.1:PORT/system",
    "a line": f"http://127.0.0.1:PORT/dicom-web/{STUDY}\r\nHost: evil.example",
    "another bucket": "s3://patients/a.png",
    "a key with a step up": "s3://scans/../patients/a.png",
    "no key": "s3://scans/",
    "a number": 7,
    "a long text": "http://127.0.0.1:PORT/" + "a" * 5000,
}


@contextmanager
def web(answer: Any) -> Iterator[tuple[int, list[str]]]:
    """A web server of ours that answers everything with `answer(handler)`: its port, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_in_the_lists_is_refused_before_anybody_is_asked(name: str, monkeypatch: pytest.MonkeyPatch):
    """Also when another reference of the same request is in order."""
    reference = REFUSED[name]
    with web(lambda handler: handler.send_error(404)) as (port, asked):
        lists = allowed(monkeypatch, f"http://127.0.0.1:{port}", "scans")
        wrong = reference.replace("PORT", str(port)) if isinstance(reference, str) else reference
        with pytest.raises(DataError, match=r"instances\[1\]\.reference: (not a reference|not at a host|not in a bucket)"):
            ask(lists, f"http://127.0.0.1:{port}/{STUDY}", wrong)
        assert asked == []


def test_empty_lists_are_closed(monkeypatch: pytest.MonkeyPatch):
    for reference in ("https://pacs.example/" + STUDY, "s3://scans/a.png"):
        with pytest.raises(DataError, match="that this server fetches from"):
            ask(allowed(monkeypatch), reference)


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch):
    def elsewhere(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", f"http://127.0.0.1:{handler.server.server_address[1]}/elsewhere")
        handler.end_headers()

    with web(elsewhere) as (port, asked), pytest.raises(DataError, match="redirects, which is not followed"):
        ask(allowed(monkeypatch, f"http://127.0.0.1:{port}"), f"http://127.0.0.1:{port}/{STUDY}")
    assert asked == [f"/{STUDY}"]


def test_a_host_that_trickles_or_never_ends_is_left(monkeypatch: pytest.MonkeyPatch):
    over = threading.Event()

    def head(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=x')
        handler.end_headers()

    def trickle(handler: Any) -> None:
        head(handler)
        try:
            while not over.wait(0.02):
                handler.wfile.write(b"-")
        except OSError:
            pass

    def flood(handler: Any) -> None:
        head(handler)
        try:
            handler.wfile.write(b"--x\r\n\r\n")
            while not over.is_set():
                handler.wfile.write(bytes(1 << 16))
        except OSError:
            pass

    for answer, kind, what, limits in ((trickle, ServiceError, "did not come in time", {"S": 0.5}), (flood, DataError, "larger than", {"MB": 4})):
        with monkeypatch.context() as own, web(answer) as (port, _):
            lists = allowed(own, f"http://127.0.0.1:{port}", **limits)
            with pytest.raises(kind, match=what):
                ask(lists, f"http://127.0.0.1:{port}/{STUDY}")
            over.set()
        over.clear()


def test_an_object_of_a_bucket_gives_the_sample_that_its_bytes_give(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch):
    client = s3_server.client()
    s3_server.environment(monkeypatch)
    for bucket in ("scans", "patients"):
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
    content = small_bodies.picture()
    client.put_object("scans", "2026/eye.png", io.BytesIO(content), len(content))
    client.put_object("patients", "2026/eye.png", io.BytesIO(content), len(content))
    lists = allowed(monkeypatch, buckets="scans")
    found = ask(lists, "s3://scans/2026/eye.png", name=FUNDUS)
    np.testing.assert_array_equal(found[0].array, bodies.read(None, Body(content), disease(FUNDUS), PSEUDONYMISER)[0].array)
    for reference, what in (("s3://patients/2026/eye.png", "not in a bucket"), ("s3://scans/2026/absent.png", "no such object")):
        with pytest.raises(DataError, match=what):
            ask(lists, reference, name=FUNDUS)
    with monkeypatch.context() as own, pytest.raises(DataError, match="larger than allowed"):
        ask(allowed(own, buckets="scans", MB=0.001), "s3://scans/2026/eye.png", name=FUNDUS)


@needs_minio
def test_a_wrong_secret_is_told_without_secrets_and_names(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch):
    client = s3_server.client()
    s3_server.environment(monkeypatch)
    if not client.bucket_exists("scans"):
        client.make_bucket("scans")
    content = small_bodies.picture()
    client.put_object("scans", "2026/eye.png", io.BytesIO(content), len(content))
    lists = allowed(monkeypatch, buckets="scans")
    assert len(ask(lists, "s3://scans/2026/eye.png", name=FUNDUS)) == 1
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-of-forty-characters-or-so")
    with pytest.raises(DxflowError) as error:
        ask(lists, "s3://scans/2026/eye.png", name=FUNDUS)
    assert not any(secret in str(error.value) for secret in ("another-secret", s3_server.password, "2026", "eye"))


@pytest.mark.parametrize("hosts", ["pacs.example/dicom-web", "ftp://pacs.example:21", "http://user:pw-4711@", "https://pacs.example:99999"])
def test_a_host_that_cannot_be_meant_stops_the_server_without_its_password(hosts: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SpecError, match="DXFLOW_REFERENCE_HOSTS: not a host") as error:
        allowed(monkeypatch, hosts)
    assert "pw-4711" not in str(error.value)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100_000])
def test_parts_come_out_whole_however_the_answer_is_cut(size: int, tmp_path: Path):
    rng = np.random.default_rng(size)
    parts = [b"", b"\r\n--", b"\r\n--boundarx", rng.bytes(500), b"--boundary\r\n", b"a\r\n\r\nb"]
    body = b"preamble" + b"".join(b"\r\n--boundary\r\nContent-Type: application/dicom\r\n\r\n" + p for p in parts) + b"\r\n--boundary--\r\nepilogue"
    for whole in (body, body.removeprefix(b"preamble\r\n")):
        folder = tmp_path / str(len(whole))
        folder.mkdir()
        count = split_parts((whole[n : n + size] for n in range(0, len(whole), size)), b"boundary", folder, most=6)
        assert (count, [p.read_bytes() for p in sorted(folder.iterdir())]) == (6, parts)
    with pytest.raises(DataError, match="more parts"):
        split_parts(iter([body]), b"boundary", folder, most=5)
    with pytest.raises(DataError, match="breaks off"):
        split_parts(iter([body[:-30]]), b"boundary", folder, most=6)
