"""The object store on a real S3 server: what only a server can do wrong."""

from __future__ import annotations

import io
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from components.core import storage_s3
from components.core.errors import DataError, ServiceError
from components.core.storage import file_sha256, open_store
from tests.s3_server import Gate, S3Server, clear_aws, needs_minio
from tests.serving.small_server import free_port
from tests.store_folders import contents, filled

ROOT = Path(__file__).resolve().parents[2]


def one_line(error: BaseException, *secrets: str) -> str:
    """The text of an error that must be one line without secrets."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 300
    for secret in secrets:
        assert secret not in text
    return text


@needs_minio
def test_a_killed_uploader_leaves_nothing_to_see(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """kill -9 after 10 of 24 MiB: neither the file nor the folder is there, and the next attempt succeeds."""
    gate = Gate(s3_server.port, up=10 << 20)
    s3_server.environment(monkeypatch, url=gate.url)
    source = filled(tmp_path / "in", a=b"1", big=os.urandom(24 << 20))
    code = "import sys; from components.core.storage import open_store; open_store('s3://models/killed').put_folder(sys.argv[1], 'p')"
    uploader = subprocess.Popen([sys.executable, "-c", code, str(source)], cwd=ROOT)
    try:
        assert gate.reached.wait(30)
    finally:
        uploader.kill()
        uploader.wait()
        gate.close()
    s3_server.environment(monkeypatch)
    store = open_store("s3://models/killed")
    assert not store.exists("p")
    assert not store.exists("p/big")
    with pytest.raises(DataError):
        store.get_folder("p", tmp_path / "out")
    store.put_folder(source, "p")
    store.get_folder("p", tmp_path / "out")
    assert contents(tmp_path / "out") == contents(source)


@needs_minio
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_server_restarted_in_the_middle_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str):
    """kill -9 of the server after 10 of 24 MiB, then a new one on the same data: the transfer ends well."""
    server = S3Server(tmp_path / "data").start()
    gate = Gate(server.port, **{way: 10 << 20})
    failures: list[BaseException] = []
    try:
        server.client().make_bucket("models")
        filled(tmp_path, source=os.urandom(24 << 20))
        server.environment(monkeypatch)
        direct = open_store("s3://models")
        server.environment(monkeypatch, url=gate.url)
        store = open_store("s3://models")
        if way == "down":
            direct.put_file(tmp_path / "source", "k")

        def transfer() -> None:
            try:
                if way == "up":
                    store.put_file(tmp_path / "source", "k")
                else:
                    store.get_file("k", tmp_path / "out")
            except BaseException as error:
                failures.append(error)

        worker = threading.Thread(target=transfer)
        worker.start()
        assert gate.reached.wait(30)
        server.kill()
        gate.cut()
        server.start()
        worker.join(60)
        assert not worker.is_alive()
        assert failures == []
        if way == "up":
            direct.get_file("k", tmp_path / "out")
        assert file_sha256(tmp_path / "out") == file_sha256(tmp_path / "source")
    finally:
        gate.close()
        server.kill()


@needs_minio
@pytest.mark.parametrize(
    "wrong",
    [{"AWS_SECRET_ACCESS_KEY": "not-the-secret-0123456789"}, {"AWS_ACCESS_KEY_ID": "NOBODY"}, {"AWS_SESSION_TOKEN": "forged-token-0123456789"}],
)
def test_bad_credentials_are_one_line(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: dict[str, str]
):
    """Every operation, with all logging on: no secret anywhere."""
    s3_server.environment(monkeypatch)
    for name, value in wrong.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.DEBUG)
    store, source = open_store("s3://models/x"), filled(tmp_path / "in", a=b"1")
    for use in (
        lambda: store.put_file(source / "a", "k"), lambda: store.get_file("k", tmp_path / "out"), lambda: store.put_folder(source, "p"),
        lambda: store.get_folder("p", tmp_path / "out"), lambda: store.exists("k"), lambda: list(store.list()), lambda: store.delete("k"),
    ):  # fmt: skip
        with pytest.raises(ServiceError, match="refuses these credentials") as caught:
            use()
        one_line(caught.value, s3_server.password, *wrong.values())
    for secret in (s3_server.password, *wrong.values()):
        assert secret not in caplog.text


def test_a_wrong_bucket_is_said_by_every_operation(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    s3_server.environment(monkeypatch)
    source = filled(tmp_path / "in", a=b"1")
    for use in (
        lambda s: s.put_file(source / "a", "k"), lambda s: s.get_file("k", tmp_path / "out"), lambda s: s.put_folder(source, "p"),
        lambda s: s.get_folder("p", tmp_path / "out"), lambda s: s.exists("k"), lambda s: list(s.list()),
    ):  # fmt: skip
        with pytest.raises(ServiceError, match="s3://absent: no such bucket") as caught:
            use(open_store("s3://absent/x"))
        one_line(caught.value, s3_server.password)


def test_a_wrong_endpoint_is_given_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Nobody listens; no such host; something listens that is not S3: two attempts at most."""
    clear_aws(monkeypatch)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-0123456789")
    pauses: list[int] = []
    monkeypatch.setattr(storage_s3, "pause", pauses.append)
    for url, says in ((f"http://127.0.0.1:{free_port()}", "no answer from the store"), ("http://nowhere.invalid:9000", "no such host")):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(ServiceError, match=says) as caught:
            open_store("s3://models").exists("k")
        assert url.removeprefix("http://") in one_line(caught.value, "very-secret")
    assert pauses == [1]
    assert storage_s3.CONNECT_S <= 5


def test_a_slow_uplink_is_not_a_timeout(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sending may take far longer than connecting: three times the connect timeout in the middle of a part, and nothing is sent twice."""
    gate = Gate(s3_server.port, up=5 << 20)
    s3_server.environment(monkeypatch, url=gate.url)
    pauses: list[int] = []
    monkeypatch.setattr(storage_s3, "pause", pauses.append)
    monkeypatch.setattr(storage_s3, "CONNECT_S", 0.5)
    (tmp_path / "in").write_bytes(os.urandom(18 << 20))
    opener = threading.Thread(target=lambda: (gate.reached.wait(30), time.sleep(1.5), gate.open()))
    opener.start()
    try:
        store = open_store("s3://models/slow")
        store.put_file(tmp_path / "in", "k")
        store.get_file("k", tmp_path / "out")
    finally:
        opener.join()
        gate.close()
    assert pauses == []
    assert file_sha256(tmp_path / "out") == file_sha256(tmp_path / "in")


@pytest.mark.parametrize("own", [True, False], ids=["ours", "of another tool"])
def test_a_bit_that_turns_on_the_way_is_noticed(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool):
    """Ours have a SHA-256 beside them; of others the server says the MD5."""
    (tmp_path / "in").write_bytes(b"some bytes and THE-ONE among them")
    s3_server.environment(monkeypatch)
    if own:
        open_store("s3://models").put_file(tmp_path / "in", "turned")
    else:
        s3_server.client().fput_object("models", "turned", str(tmp_path / "in"))
    gate = Gate(s3_server.port, turned=b"THE-ONE")
    try:
        s3_server.environment(monkeypatch, url=gate.url)
        for fetch in (
            lambda: open_store("s3://models").get_file("turned", tmp_path / "out", foreign=True),
            lambda: open_store("s3://models").open_read("turned", foreign=True),
            lambda: open_store("s3://models").copy_to("turned", io.BytesIO()),
        ):
            with pytest.raises(DataError, match="checksum") as caught:
                fetch()
            one_line(caught.value)
        assert not (tmp_path / "out").exists()
    finally:
        gate.close()


def test_a_server_that_never_answers_is_given_up_after_one_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It takes the connection and says nothing."""
    clear_aws(monkeypatch)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-0123456789")
    monkeypatch.setattr(storage_s3, "READ_S", 0.3)
    pauses: list[int] = []
    monkeypatch.setattr(storage_s3, "pause", pauses.append)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ServiceError, match=r"no answer from the store.*Timeout") as caught:
            open_store("s3://models").exists("k")
    one_line(caught.value, "very-secret")
    assert pauses == []


class Page(BaseHTTPRequestHandler):
    """Some other service."""

    def do_GET(self) -> None:
        self.send_response(200 if self.command == "HEAD" else 404)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>secret page</html>")

    do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_page() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_another_kind_of_server_is_told_apart(web_page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clear_aws(monkeypatch)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-0123456789")
    monkeypatch.setenv("AWS_ENDPOINT_URL", web_page)
    with pytest.raises(ServiceError, match="no S3 server at this address") as caught:
        open_store("s3://models").put_file(filled(tmp_path, a=b"1") / "a", "k")
    one_line(caught.value, "very-secret", "secret page")


@pytest.mark.parametrize("url", ["127.0.0.1:9000", "ftp://host", "http://", "http://host:port", "http://host/path", "http://user:hidden@host"])
def test_endpoints_that_cannot_be_one(monkeypatch: pytest.MonkeyPatch, url: str):
    clear_aws(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
    with pytest.raises(ServiceError, match="AWS_ENDPOINT_URL_S3: not an S3 endpoint") as caught:
        open_store("s3://models")
    one_line(caught.value, "hidden")


def test_credentials_come_from_the_environment_or_a_profile(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without either, one line says where they are looked for."""
    s3_server.environment(monkeypatch)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ServiceError, match=r"no credentials .*AWS_ACCESS_KEY_ID"):
        open_store("s3://models")
    file = tmp_path / "credentials"
    file.write_text(f"[default]\naws_access_key_id = x\n[lab]\naws_access_key_id = {s3_server.user}\naws_secret_access_key = {s3_server.password}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with pytest.raises(ServiceError, match="profile 'default'"):
        open_store("s3://models")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert not open_store("s3://models").exists("k")
    file.write_text("aws_secret_access_key = hidden")
    with pytest.raises(ServiceError, match="cannot be read") as caught:
        open_store("s3://models")
    one_line(caught.value, "hidden")


@needs_minio
def test_temporary_credentials_work_with_their_token(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Issued by the server's own token service; without the token they are refused."""
    from minio.credentials.providers import AssumeRoleProvider

    issued = AssumeRoleProvider(sts_endpoint=s3_server.url, access_key=s3_server.user, secret_key=s3_server.password, region="us-east-1").retrieve()
    s3_server.environment(monkeypatch)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", issued.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", issued.secret_key)
    with pytest.raises(ServiceError, match="refuses these credentials"):
        open_store("s3://models").exists("k")
    monkeypatch.setenv("AWS_SESSION_TOKEN", str(issued.session_token))
    store = open_store("s3://models/temporary")
    store.put_file(filled(tmp_path, a=b"1") / "a", "k")
    assert store.exists("k")


@needs_minio
def test_tls_with_a_private_authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trusted through AWS_CA_BUNDLE, refused without it; plain HTTP to a TLS port is told apart."""
    authority = make_certificates(tmp_path / "certs")
    server = S3Server(tmp_path / "data", certs=tmp_path / "certs").start()
    try:
        server.environment(monkeypatch)
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        with pytest.raises(ServiceError, match="certificate is not trusted") as caught:
            open_store("s3://models").exists("k")
        one_line(caught.value, server.password)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
        store = open_store("s3://models/x")
        store._client.make_bucket("models")  # type: ignore[attr-defined]
        store.put_folder(filled(tmp_path / "in", a=b"1", big=os.urandom(9 << 20)), "p")
        store.get_folder("p", tmp_path / "out")
        assert contents(tmp_path / "out") == contents(tmp_path / "in")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
        with pytest.raises(ServiceError, match="AWS_CA_BUNDLE: no such certificate file"):
            open_store("s3://models")
        server.environment(monkeypatch, url=server.url.replace("https", "http"))
        with pytest.raises(ServiceError, match=r"refuses|no S3 server|no answer"):
            open_store("s3://models").exists("k")
    finally:
        server.kill()


def make_certificates(folder: Path) -> Path:
    """A private authority and a server certificate for 127.0.0.1; returns the authority's file."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder.mkdir()
    start = datetime.datetime.fromtimestamp(time.time(), datetime.UTC) - datetime.timedelta(days=1)
    keys = {who: ec.generate_private_key(ec.SECP256R1()) for who in ("authority", "server")}
    names = {who: x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"dxflow tests {who}")]) for who in keys}
    for who, key in keys.items():
        builder = x509.CertificateBuilder().subject_name(names[who]).issuer_name(names["authority"]).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(start + datetime.timedelta(days=3))
        builder = builder.add_extension(x509.BasicConstraints(ca=who == "authority", path_length=None), critical=True)
        if who == "server":
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        pem = builder.sign(keys["authority"], hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        (folder / ("public.crt" if who == "server" else "authority.pem")).write_bytes(pem)
    (folder / "private.key").write_bytes(
        keys["server"].private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    (folder / "authority.pem").rename(folder.parent / "authority.pem")
    return folder.parent / "authority.pem"
