"""Where online profiles live when several servers share them: a Redis server, named by `DXFLOW_ONLINE_STORE`.

    address      what the variable says, checked; None for SQLite
    client       a connection whose every wait is bounded and which never tries twice
    project      the Feast project of one model package: it ends every key, so packages cannot answer for each other
    publishing   one publisher of a package at a time, over hosts
    unavailable  a failure of Redis as one line, without its message, which may quote the user

A certificate of a private authority is trusted through `SSL_CERT_FILE`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from components.core.errors import ServiceError, SpecError
from components.core.secret import secret

VARIABLE, PASSWORD = "DXFLOW_ONLINE_STORE", "DXFLOW_ONLINE_STORE_PASSWORD"
ALLOWED = "sqlite, redis://host:port/db, rediss://host:port/db"
SERVER_WAIT_S = 0.2  # for connecting, and for each answer: greeting, database and read together stay under a second
PUBLISH_WAIT_S = 5.0
LOCK_S = 60.0  # a publisher that died lets the next one in after this; publishing a thousand devices takes a few seconds


@dataclass(frozen=True)
class RedisAddress:
    """One database of one server. The password is in no text that this gives."""

    host: str
    port: int = 6379
    db: int = 0
    tls: bool = False
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.db}"


@dataclass(frozen=True)
class RedisPlace:
    """The online profiles of one package at one Redis server."""

    address: RedisAddress
    package: str


def address() -> RedisAddress | None:
    """What `DXFLOW_ONLINE_STORE` names; None for SQLite. Raises SpecError, which never repeats the value: it may hold a password."""
    text = os.environ.get(VARIABLE, "").strip()
    if text in ("", "sqlite"):
        return None
    try:
        parts = urlsplit(text)
        port, path = parts.port, parts.path.strip("/")
    except ValueError:
        raise SpecError("not the address of an online store", where=VARIABLE, allowed=ALLOWED) from None
    good = parts.scheme in ("redis", "rediss") and parts.hostname and port != 0 and not parts.query and not parts.fragment
    if not good or not (path == "" or (path.isascii() and path.isdecimal() and len(path) < 6)):
        raise SpecError("not the address of an online store", where=VARIABLE, allowed=ALLOWED)
    return RedisAddress(
        host=str(parts.hostname), port=port or 6379, db=int(path or 0), tls=parts.scheme == "rediss",
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else secret(PASSWORD),
    )  # fmt: skip


def project(package: str) -> str:
    """The Feast project of a package: letters and digits stay, any other character becomes its number, so no two packages share one."""
    return "dxflow_" + "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in package)


def client(where: RedisAddress, *, wait_s: float) -> Any:
    """A `redis.Redis`; nothing is sent before its first use.

    Feast would make its own from one line of text with commas between the settings, which cuts a password at its first comma, reads a password of
    digits as a number, and tries three times with pauses.
    """
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return redis.Redis(
        host=where.host, port=where.port, db=where.db, username=where.user, password=where.password, ssl=where.tls,
        socket_connect_timeout=wait_s, socket_timeout=wait_s, retry=Retry(NoBackoff(), 0), retry_on_error=[],
    )  # fmt: skip


def ping(where: RedisAddress) -> None:
    """Raises ServiceError when the server does not answer, or refuses us."""
    try:
        client(where, wait_s=SERVER_WAIT_S * 5).ping()
    except Exception as error:
        raise unavailable(error, where) from None


@contextmanager
def publishing(where: RedisPlace) -> Iterator[None]:
    """The lock of a package's publishers. Raises ServiceError when another one holds it for long."""
    from redis import exceptions

    connection = client(where.address, wait_s=PUBLISH_WAIT_S)
    lock = connection.lock(f"dxflow:publishing:{project(where.package)}", timeout=LOCK_S, blocking_timeout=LOCK_S / 2, sleep=0.05)
    try:
        held = lock.acquire()
    except Exception as error:
        raise unavailable(error, where.address) from None
    if not held:
        raise ServiceError("another publisher holds the package's profiles", where=f"online store {where.address}", got=where.package)
    try:
        yield
    finally:
        with suppress(exceptions.RedisError, OSError):  # away by now: what was written has been read back, and the lock ends by itself
            lock.release()


def unavailable(error: BaseException, where: RedisAddress) -> ServiceError:
    """A failure of the server as one line. Anything that is not Redis' or the network's is a defect and raised as it is."""
    from redis import exceptions

    if isinstance(error, ServiceError):
        return error
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError):
        what = "refuses the user or the password"
    elif isinstance(error, exceptions.TimeoutError | TimeoutError):
        what = "does not answer in time"
    elif isinstance(error, exceptions.ConnectionError | OSError):
        what = "cannot be reached"
    elif isinstance(error, exceptions.RedisError):
        what = "answers with an error"
    else:
        raise error
    return ServiceError(f"the online store {what}", where=str(where), got=type(error).__name__)
