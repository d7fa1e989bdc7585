"""Who is let in, and who is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from components.core.errors import ServiceError, SpecError
from serving.access.policy import LOCAL, Denied, Oidc, Policy, is_loopback, new_token

BEYOND = "0.0.0.0"
PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def token_file(tmp_path: Path, *lines: str, mode: int = 0o600) -> Path:
    path = tmp_path / "tokens"
    path.write_text("\n".join(["# who may", *lines, ""]))
    path.chmod(mode)
    return path


def test_loopback_needs_nobody_and_any_other_address_somebody(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.8.8"):
        assert Policy(host).identify(None) is LOCAL
    for host in (BEYOND, "::", "192.0.2.1", "localhost.example.org", ""):
        assert not is_loopback(host)
        with pytest.raises(SpecError, match="--tokens or --oidc-issuer"):
            Policy(host)


def test_a_static_token_is_known_by_its_hash(tmp_path: Path) -> None:
    token, line = new_token("ward-7", ["reader", "operator"])
    assert token not in line
    policy = Policy(BEYOND, tokens=token_file(tmp_path, line))
    who = policy.identify(f"Bearer {token}")
    assert (who.name, who.roles) == ("ward-7", {"reader", "operator"})
    assert policy.identify(f"bearer  {token} ") == who
    for header in (None, "", "Bearer", "Bearer ", f"Basic {token}", f"Bearer {token}x", f"Bearer {token[:-1]}", "Bearer " + "x" * 20_000, token):
        with pytest.raises(Denied):
            policy.identify(header)


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["reader ward-7"], "2 words"),
        (["doctor ward-7 " + "0" * 64], "no such role"),
        (["reader ward-7 secret-token-itself"], "not the SHA-256 of a token"),
        ([], "no token in the file"),
    ],
)
def test_a_bad_line_of_the_tokens_is_named_and_not_repeated(tmp_path: Path, lines: list[str], text: str) -> None:
    with pytest.raises(SpecError) as error:
        Policy(BEYOND, tokens=token_file(tmp_path, *lines))
    assert text in str(error.value)
    assert "secret-token-itself" not in str(error.value)


def test_tokens_that_others_can_read_are_refused(tmp_path: Path) -> None:
    line = new_token("a", ["reader"])[1]
    Policy(BEYOND, tokens=token_file(tmp_path, line, mode=0o640))
    for mode in (0o644, 0o660, 0o666):
        with pytest.raises(SpecError, match="others may read or write"):
            Policy(BEYOND, tokens=token_file(tmp_path, line, mode=mode))


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """An issuer with a discovery document and one public key."""
    public: dict[str, Any] = jwt.algorithms.RSAAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True) | {"kid": "one", "use": "sig", "alg": "RS256"}

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = f"http://127.0.0.1:{self.server.server_address[1]}"
            page = {"/.well-known/openid-configuration": {"issuer": address, "jwks_uri": f"{address}/keys"}, "/keys": {"keys": [public]}}
            body = json.dumps(page.get(self.path, {})).encode()
            self.send_response(200 if self.path in page else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def signed(issuer: str, key: Any = PRIVATE, algorithm: str = "RS256", **changes: Any) -> str:
    claims = {"iss": issuer, "aud": "dxflow", "sub": "dr-b", "exp": time.time() + 600, "roles": ["dxflow-reader", "other-app"]} | changes
    return "Bearer " + jwt.encode({k: v for k, v in claims.items() if v is not None}, key, algorithm=algorithm, headers={"kid": "one"})


def test_a_token_of_the_issuer_is_let_in_with_its_roles(provider: str) -> None:
    policy = Policy(BEYOND, oidc=Oidc(provider, "dxflow"))
    who = policy.identify(signed(provider))
    assert (who.name, who.roles) == ("dr-b", {"reader"})
    assert policy.identify(signed(provider, roles="operator admin")).roles == {"operator", "admin"}
    assert policy.identify(signed(provider, roles=None)).roles == frozenset()
    nested = Policy(BEYOND, oidc=Oidc(provider, "dxflow", claim="realm_access.roles"))
    assert nested.identify(signed(provider, realm_access={"roles": ["admin"]})).roles == {"admin"}


def test_a_token_that_is_not_right_in_any_point_is_refused(provider: str) -> None:
    policy = Policy(BEYOND, oidc=Oidc(provider, "dxflow"))
    pem = PRIVATE.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head, body = ({"alg": "none", "kid": "one"}, {"iss": provider, "aud": "dxflow", "sub": "x", "exp": time.time() + 60, "roles": ["admin"]})
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (head, body)]
    confused = [base64.urlsafe_b64encode(json.dumps(head | {"alg": "HS256"}).encode()).rstrip(b"=").decode(), parts[1]]
    mac = base64.urlsafe_b64encode(hmac.new(pem, ".".join(confused).encode(), hashlib.sha256).digest()).rstrip(b"=").decode()
    bad = {
        "expired": signed(provider, exp=time.time() - 60),
        "without an end": signed(provider, exp=None),
        "not yet": signed(provider, nbf=time.time() + 600),
        "another audience": signed(provider, aud="other"),
        "without an audience": signed(provider, aud=None),
        "another issuer": signed("https://other.example"),
        "nobody": signed(provider, sub=None),
        "another key": signed(provider, key=STRANGER),
        "not signed": "Bearer " + ".".join([*parts, ""]),
        "signed with the public key as a secret": "Bearer " + ".".join([*confused, mac]),
        "no token at all": "Bearer abc.def.ghi",
    }
    for case, header in bad.items():
        with pytest.raises(Denied):
            pytest.fail(f"{case}: {policy.identify(header)}")


def test_a_token_is_not_remembered_beyond_its_end(provider: str) -> None:
    policy = Policy(BEYOND, oidc=Oidc(provider, "dxflow"))
    policy.identify(signed(provider))
    ((identity, until),) = policy._known.values()
    assert until - time.monotonic() <= 60
    for digest in policy._known:
        policy._known[digest] = (identity, time.monotonic() - 1)
    assert policy.identify(signed(provider)).name == "dr-b"  # checked anew


def test_a_provider_that_is_away_lets_nobody_in() -> None:
    policy = Policy(BEYOND, oidc=Oidc("http://127.0.0.1:9", "dxflow"))
    with pytest.raises(ServiceError):
        policy.identify(signed("http://127.0.0.1:9"))


def test_an_issuer_must_be_https() -> None:
    for oidc in (Oidc("http://issuer.example", "a"), Oidc("https://issuer.example", "a", jwks="file:///etc/passwd"), Oidc("issuer.example", "a")):
        with pytest.raises(SpecError, match="https"):
            Policy(BEYOND, oidc=oidc)
