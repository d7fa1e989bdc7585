"""A server with TLS, tokens, the reading page and gRPC, as a process: each role reaches its own, nothing else, and all of it is in the audit log."""

from __future__ import annotations

import base64
import datetime
import io
import ipaddress
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from serving.access.policy import new_token
from serving.access.verify import verify
from tests.serving.small_dicom import MARKS, ct_slice, image
from tests.serving.small_package import build, lung_nodule, reference
from tests.serving.small_server import free_port, free_ports

POINT = {"X-Dxflow-Row": "100.5", "X-Dxflow-Column": "99.5", "Content-Type": "application/dicom"}
ROOT = Path(__file__).parents[3]


def certificate(folder: Path) -> tuple[Path, Path]:
    """Self-signed, for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    made = made.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(1)).add_extension(alternatives, critical=False)
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "cert.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    (folder / "key.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "cert.pem", folder / "key.pem"


@dataclass
class Site:
    url: str
    grpc: str
    home: Path
    tokens: dict[str, str]
    cert: Path
    process: subprocess.Popen[bytes]

    def ask(self, method: str, path: str, role: str | None = None, **more: object) -> httpx.Response:
        headers = dict(more.pop("headers", {}))  # type: ignore[call-overload]
        if role:
            headers["Authorization"] = f"Bearer {self.tokens[role]}"
        context = ssl.create_default_context(cafile=str(self.cert))
        return httpx.request(method, self.url + path, headers=headers, verify=context, timeout=60, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("access")
    known = reference({"0" * 16: ("SIEMENS", "SOMATOM FORCE")})
    package = build(root / "package", lung_nodule(normalise={"method": "range"}), known)
    made = {role: new_token(f"{role}-1", [role]) for role in ("reader", "operator", "admin")}
    (root / "tokens").write_text("\n".join(line for _, line in made.values()))
    (root / "tokens").chmod(0o600)
    cert, key = certificate(root)
    ports = free_ports(2)
    command = [
        sys.executable, "-m", "pipelines", "serve", str(package.folder), "--port", str(ports[0]), "--grpc-port", str(ports[1]), "--admin",
        "--reading", "--tokens", str(root / "tokens"), "--tls-cert", str(cert), "--tls-key", str(key),
    ]  # fmt: skip
    environment = {**os.environ, "DXFLOW_HOME": str(root / "home"), "DXFLOW_KEY": "a key of the tests only"}
    with open(root / "output.txt", "wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment)
    found = Site(f"https://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", root / "home", {r: t for r, (t, _) in made.items()}, cert, process)
    try:
        for _ in range(1200):
            assert process.poll() is None, (root / "output.txt").read_text()
            try:
                if found.ask("GET", "/v2/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield found
    finally:
        process.kill()
        process.wait()


def slice_() -> dict[str, object]:
    return {"content": ct_slice(image()), "headers": POINT}


def test_each_role_reaches_its_own_and_nobody_reaches_anything_without_one(site: Site) -> None:
    assert site.ask("GET", "/v2/health/live").status_code == 200
    for path, method, more, allowed in (
        ("/v1/models/lung-nodule:predict", "POST", slice_(), {"reader"}),
        ("/v1/models/lung-nodule:explain", "POST", slice_(), {"reader"}),
        ("/read", "GET", {}, {"reader"}),
        ("/metrics", "GET", {}, {"operator", "admin"}),
        ("/v2/repository/models/lung-nodule/load", "POST", {}, {"admin"}),
        ("/v1/models", "GET", {}, {"reader", "operator", "admin"}),
    ):
        assert site.ask(method, path, **more).status_code == 401
        got = {role: site.ask(method, path, role, **more).status_code for role in site.tokens}
        assert {role for role, status in got.items() if status == 200} == allowed, (path, got)
        assert all(status == 403 for role, status in got.items() if role not in allowed)


def test_an_explanation_is_an_answer_with_two_pictures(site: Site) -> None:
    reply = site.ask("POST", "/v1/models/lung-nodule:explain", "reader", **slice_())
    (answer,) = reply.json()["explanations"]
    assert answer["decision"] in ("benign", "malignant")
    assert set(answer["uncertainty"]) == {"entropy", "coverage", "set", "observed", "low", "high"}
    heat = answer["heatmap"]
    assert (heat["method"], heat["classes"], heat["places"]) == ("occlusion", ["malignant"], [52, 52])
    layer = Image.open(io.BytesIO(base64.b64decode(heat["layer_png_base64"])))
    assert (layer.size, layer.mode) == ((52, 52), "RGBA")
    assert np.asarray(layer)[..., 3].max() > 100
    whole = site.ask("POST", "/v1/models/lung-nodule:explain", "reader", content=ct_slice(image()), headers=POINT | {"Accept": "image/png"})
    assert whole.headers["content-type"] == "image/png"
    assert min(Image.open(io.BytesIO(whole.content)).size) >= 384
    assert "authorization" not in reply.text.lower()
    bad = site.ask("POST", "/v1/models/lung-nodule:explain", "reader", content=b"{}", headers={"Content-Type": "application/json"})
    assert (bad.status_code, bad.json()["error"].split(":")[0]) == (400, "instances")


def test_what_was_asked_waits_on_the_reading_page(site: Site) -> None:
    page = site.ask("GET", "/read", "reader")
    assert "Probability of malignant: " in page.text
    assert not any(mark in page.text.lower() for mark in MARKS)


def test_grpc_knows_the_same_people(site: Site) -> None:
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as service

    x = np.zeros((1, 1, 52, 52), "<f4") - 700
    x[..., 20:30, 20:30] = 0
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=list(x.shape))
    request = pb.ModelInferRequest(model_name="lung-nodule", inputs=[tensor], raw_input_contents=[x.tobytes()])
    with grpc.secure_channel(site.grpc, grpc.ssl_channel_credentials(site.cert.read_bytes())) as channel:
        stub = service.GRPCInferenceServiceStub(channel)
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        for role, expected in ((None, "UNAUTHENTICATED"), ("operator", "PERMISSION_DENIED"), ("admin", "PERMISSION_DENIED")):
            metadata = [("authorization", f"Bearer {site.tokens[role]}")] if role else None
            with pytest.raises(grpc.RpcError) as error:
                stub.ModelInfer(request, metadata=metadata, timeout=60)
            assert error.value.code().name == expected  # type: ignore[attr-defined]
        reply = stub.ModelInfer(request, metadata=[("authorization", f"Bearer {site.tokens['reader']}")], timeout=60)
        assert [o.name for o in reply.outputs] == ["probabilities", "decision", "abstain", "answer"]


def test_beyond_loopback_a_server_without_tokens_does_not_start(tmp_path: Path, site: Site) -> None:
    command = [sys.executable, "-m", "pipelines", "serve", str(site.home.parent / "package"), "--host", "0.0.0.0", "--port", str(free_port())]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "DXFLOW_HOME": str(tmp_path)})
    assert found.returncode == 2
    assert found.stderr.splitlines()[-1] == (
        "dxflow: --host: an address beyond this machine needs to know who asks; got 0.0.0.0; allowed: --tokens or --oidc-issuer"
    )


def test_zz_the_audit_log_holds_all_of_it_and_is_whole_at_the_end(site: Site) -> None:
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(60) == 0
    found = verify(site.home / "audit", site.home / "audit-heads")
    assert (found.findings, found.torn) == ((), ())
    text = next((site.home / "audit").glob("*.log")).read_text()
    events = [json.loads(line.split(" ", 1)[1]) for line in text.splitlines()]
    seen = {(e["action"], e.get("who"), str(e.get("status"))) for e in events}
    assert {("predict", "reader-1", "200"), ("predict", None, "401"), ("predict", "operator-1", "403"), ("replace", "admin-1", "200")} <= seen
    assert {("predict", None, "UNAUTHENTICATED"), ("predict", "admin-1", "PERMISSION_DENIED"), ("predict", "reader-1", "OK")} <= seen
    assert (events[0]["action"], events[-1]["action"]) == ("start", "end")
    assert not any(mark in text.lower() for mark in MARKS)
    assert not any(token in text for token in site.tokens.values())
