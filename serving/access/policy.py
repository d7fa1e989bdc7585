"""From an Authorization header to a person and their roles.

On loopback nobody has to say who they are. Beyond it there must be a file of static tokens, or an OIDC issuer whose signed tokens (JWT, RFC 7519)
are checked for signature, issuer, audience and time. An algorithm that the list below does not name is refused, so neither `none` nor a public
key used as a secret passes (RFC 8725, 3.1).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import stat
import time
import urllib.parse
import urllib.request
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.errors import ServiceError, SpecError
from serving.access.roles import ROLES

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
LEEWAY_S = 30
FETCH_S = 5.0
REMEMBERED, REMEMBERED_S = 1024, 60.0
MAX_TOKEN = 16_384
MIN_SECRET = 20


@dataclass(frozen=True)
class Identity:
    """Who asks. `name` is of staff or of a service, never of a patient."""

    name: str
    roles: frozenset[str]


LOCAL = Identity("local", frozenset(ROLES))
"""Whoever reaches a server on loopback."""


class Denied(Exception):
    """Nobody that is known: 401. The text says why, and never repeats the token."""


@dataclass(frozen=True)
class Oidc:
    """An OpenID provider.

    Args:
        issuer: As the tokens' `iss` says it; https, or http on loopback.
        audience: As the tokens' `aud` must hold it.
        jwks: Address of the keys; by default what the issuer's discovery document says.
        claim: Where the roles stand in a token, with dots: `roles`, `realm_access.roles`.
    """

    issuer: str
    audience: str
    jwks: str | None = None
    claim: str = "roles"


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Policy:
    """Knows people. Safe to share between threads.

    Args:
        host: The address that the server binds.
        tokens: File of static tokens: one `role[,role] name sha256` a line, where sha256 is of the token (`dxflow token` makes a line).
        oidc: An OpenID provider, beside or in place of the file.

    Raises:
        SpecError: An address beyond loopback with neither; a file that others can read or that is no such list; an issuer that is not https.
    """

    def __init__(self, host: str, *, tokens: Path | None = None, oidc: Oidc | None = None) -> None:
        if tokens is None and oidc is None and not is_loopback(host):
            raise SpecError("an address beyond this machine needs to know who asks", where="--host", got=host, allowed="--tokens or --oidc-issuer")
        self.open = tokens is None and oidc is None
        self._static = read_tokens(tokens) if tokens is not None else {}
        self._oidc = oidc
        self._keys: Any = None
        self._known: OrderedDict[bytes, tuple[Identity, float]] = OrderedDict()
        if oidc is not None:
            for where, url in (("--oidc-issuer", oidc.issuer), ("--oidc-jwks", oidc.jwks)):
                _check_url(url, where)

    def identify(self, header: str | None) -> Identity:
        """Who sent this Authorization header.

        Raises:
            Denied: Nobody that is known. ServiceError: The provider's keys cannot be had.
        """
        if self.open:
            return LOCAL
        scheme, _, token = (header or "").partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Denied("a bearer token is needed")
        if len(token) > MAX_TOKEN:
            raise Denied("the token is too long")
        digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        for known, identity in self._static.items():  # every one is compared, each in constant time
            if hmac.compare_digest(known, digest):
                return identity
        if self._oidc is None:
            raise Denied("the token is not known")
        now = time.monotonic()
        if (cached := self._known.get(digest)) and cached[1] > now:
            return cached[0]
        identity, seconds = self._verified(token, self._oidc)
        self._known[digest] = (identity, now + min(seconds, REMEMBERED_S))
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return identity

    def _verified(self, token: str, oidc: Oidc) -> tuple[Identity, float]:
        """A JWT's person, and for how many seconds it holds."""
        import jwt

        try:
            key = self._signing_key(token, oidc)
            claims = jwt.decode(
                token, key, algorithms=ALGORITHMS, audience=oidc.audience, issuer=oidc.issuer, leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )  # fmt: skip
        except jwt.ExpiredSignatureError:
            raise Denied("the token has expired") from None
        except (jwt.InvalidAudienceError, jwt.InvalidIssuerError):
            raise Denied("the token is for another service or from another issuer") from None
        except jwt.PyJWKClientConnectionError:
            raise ServiceError("the provider's keys cannot be had", where="--oidc-issuer") from None
        except jwt.PyJWTError:
            raise Denied("the token is not valid") from None
        found: Any = claims
        for part in oidc.claim.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        words = found.split() if isinstance(found, str) else [w for w in found if isinstance(w, str)] if isinstance(found, list) else []
        roles = frozenset(w.removeprefix("dxflow-") for w in words) & frozenset(ROLES)
        return Identity(str(claims["sub"])[:200], roles), max(0.0, float(claims["exp"]) - time.time())

    def _signing_key(self, token: str, oidc: Oidc) -> Any:
        import jwt

        if self._keys is None:
            url = oidc.jwks or _discovered(oidc.issuer)
            self._keys = jwt.PyJWKClient(url, cache_keys=True, lifespan=300, timeout=FETCH_S)  # pyright: ignore[reportArgumentType]
        return self._keys.get_signing_key_from_jwt(token).key


def read_tokens(path: Path) -> dict[bytes, Identity]:
    """SHA-256 of each token -> who has it. Raises SpecError naming the line, never its content."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise SpecError("cannot read the tokens", where="--tokens", got=str(path)) from None
    if mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise SpecError("others may read or write the tokens", where=f"--tokens {path}", got=oct(stat.S_IMODE(mode)), allowed="mode 600 or 640")
    found: dict[bytes, Identity] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts or line.lstrip().startswith("#"):
            continue
        where = f"{path} line {number}"
        if len(parts) != 3:
            raise SpecError("not a token's line", where=where, got=f"{len(parts)} words", allowed="ROLE[,ROLE] NAME SHA256")
        roles = frozenset(parts[0].split(","))
        if not roles <= frozenset(ROLES):
            raise SpecError("no such role", where=where, allowed=", ".join(ROLES))
        try:
            digest = bytes.fromhex(parts[2])
        except ValueError:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise SpecError("not the SHA-256 of a token", where=where, allowed="64 hexadecimal characters, as dxflow token prints them")
        found[digest] = Identity(parts[1], roles)
    if not found:
        raise SpecError("no token in the file", where=f"--tokens {path}")
    return found


def _discovered(issuer: str) -> str:
    """OpenID Connect Discovery 1.0, 4."""
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    try:
        with urllib.request.urlopen(url, timeout=FETCH_S) as reply:  # noqa: S310 - checked when the policy was made
            found = json.loads(reply.read(1 << 20))
        address = str(found["jwks_uri"])
        if found.get("issuer") != issuer:
            raise ValueError
        _check_url(address, "jwks_uri")
    except (OSError, ValueError, KeyError, TypeError, SpecError):
        raise ServiceError("no usable discovery document", where=url) from None
    return address


def _check_url(url: str | None, where: str) -> None:
    if url is None:
        return
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        return
    raise SpecError("not a safe address", where=where, allowed="https://..., or http:// on this machine")


def new_token(name: str, roles: list[str]) -> tuple[str, str]:
    """A random token, and the line of the tokens' file that knows it."""
    if not name or any(c.isspace() for c in name):
        raise SpecError("not a name", where="NAME", allowed="one word")
    if not roles or not set(roles) <= set(ROLES):
        raise SpecError("no such role", where="--role", allowed=", ".join(ROLES))
    token = os.urandom(32).hex()
    return token, f"{','.join(roles)} {name} {hashlib.sha256(token.encode()).hexdigest()}"
