"""Files by reference, for what is too large for a request: `https://host/.../studies/<uid>/series/<uid>` (WADO-RS) or `s3://bucket/key`.

Closed unless the operator names hosts and buckets. Nothing of a client's reference decides where the server connects to but an entry of these
lists; redirects are not followed; no error or log line holds a path, a key or a credential. What is fetched goes to a scratch folder
(`components/core/scratch.py`) that is gone when its samples are decoded.

    DXFLOW_REFERENCE_HOSTS     `pacs.example, http://user:password@127.0.0.1:8042`: https unless the entry says http; credentials go to that host only
    DXFLOW_REFERENCE_BUCKETS   `scans, slides`, at the S3 server of AWS_ENDPOINT_URL
    DXFLOW_REFERENCE_MB, DXFLOW_REFERENCE_S    limits of one reference: 2048 and 60
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from components.core import scratch
from components.core.errors import DataError, ServiceError, SpecError
from serving.multipart import boundary_of, split_parts

FORMS = "https://<host>/<path>/studies/<uid>/series/<uid>[/instances/<uid>] or s3://<bucket>/<key>"
WADO = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){0,6}/studies/[0-9.]{1,64}/series/[0-9.]{1,64}(/instances/[0-9.]{1,64})?")
S3 = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/([A-Za-z0-9][A-Za-z0-9._+=@-]*(?:/[A-Za-z0-9][A-Za-z0-9._+=@-]*)*)")
LONGEST = 1024
AT_ONCE = 2
CONNECT_S, BLOCK = 5.0, 1 << 20
MOST_PARTS = 2048
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'


@dataclass(frozen=True)
class Host:
    """One server that references may name."""

    scheme: str
    authorization: str | None


@dataclass(frozen=True)
class Allowed:
    """What may be fetched, and how much of it.

    Args:
        hosts: By `host:port`.
        most_bytes, seconds: Of one reference.
    """

    hosts: Mapping[str, Host]
    buckets: frozenset[str]
    most_bytes: int = 2048 << 20
    seconds: float = 60.0

    @classmethod
    def from_environment(cls) -> Allowed:
        """Raises SpecError for an entry or a limit that cannot be meant; it names the variable and not the entry, which may hold a password."""
        hosts = dict(_host(entry) for entry in _entries("DXFLOW_REFERENCE_HOSTS"))
        limits = [_limit("DXFLOW_REFERENCE_MB", 2048), _limit("DXFLOW_REFERENCE_S", 60)]
        return cls(hosts, frozenset(_entries("DXFLOW_REFERENCE_BUCKETS")), int(limits[0] * (1 << 20)), limits[1])


def _entries(name: str) -> list[str]:
    return [entry.strip() for entry in os.environ.get(name, "").split(",") if entry.strip()]


def _limit(name: str, usual: float) -> float:
    try:
        value = float(os.environ.get(name) or usual)
    except ValueError:
        value = -1
    if not 0 < value <= 1e6:
        raise SpecError("not a limit", where=name, allowed="a number above 0")
    return value


def _host(entry: str) -> tuple[str, Host]:
    parts = urlsplit(entry if "://" in entry else f"https://{entry}")
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port or parts.path.strip("/") or parts.query or parts.fragment:
        raise SpecError("not a host", where="DXFLOW_REFERENCE_HOSTS", allowed="[http://][user:password@]host[:port], separated by commas")
    secret = f"{parts.username or ''}:{parts.password or ''}" if parts.username is not None else None
    authorization = f"Basic {base64.b64encode(secret.encode()).decode()}" if secret is not None else None
    return f"{parts.hostname.lower()}:{port}", Host(parts.scheme, authorization)


def asked(document: Any) -> dict[int, Any]:
    """{number of the instance: its reference} of a v1 JSON document."""
    instances = document.get("instances") if isinstance(document, Mapping) else None
    if not isinstance(instances, list):
        return {}
    return {n: one["reference"] for n, one in enumerate(instances) if isinstance(one, Mapping) and "reference" in one}


class References:
    """Fetches references, two at a time, on threads of its own: a slow PACS holds up nobody but those who wait for it."""

    def __init__(self, allowed: Allowed) -> None:
        self._allowed = allowed
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="reference")

    @asynccontextmanager
    async def fetched(self, document: Any) -> AsyncIterator[dict[int, Path]]:
        """Within the block, the files and folders that the document's references name.

        Raises:
            DataError: Names the instance: not a reference, outside the lists, not there, too large.
            ServiceError: The host or store is away, refuses, or is too slow.
        """
        found = asked(document)
        if not found:
            yield {}
            return
        # Before anything is fetched, all references must be in order: a request must not probe the network with its first ones.
        targets = {n: self._target(value, f"instances[{n}].reference") for n, value in found.items()}
        with scratch.room("reference") as room:
            loop = asyncio.get_running_loop()
            until = time.monotonic() + self._allowed.seconds
            works = [loop.run_in_executor(self._threads, self._fetch, target, room / str(n), until) for n, target in targets.items()]
            try:
                yield dict(zip(targets, await asyncio.gather(*works), strict=True))
            finally:
                await asyncio.gather(*works, return_exceptions=True)  # the scratch folder must outlive whoever still writes into it

    def _target(self, reference: Any, where: str) -> _Target:
        if not isinstance(reference, str) or len(reference) > LONGEST:
            raise DataError("not a reference", where=where, allowed=FORMS)
        if match := S3.fullmatch(reference):
            if match[1] not in self._allowed.buckets:
                raise DataError("not in a bucket that this server fetches from", where=where, allowed="buckets of DXFLOW_REFERENCE_BUCKETS")
            return _Target(where, bucket=match[1], key=match[2])
        try:
            parts = urlsplit(reference)
            port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        except ValueError:
            raise DataError("not a reference", where=where, allowed=FORMS) from None
        place = f"{(parts.hostname or '').lower()}:{port}"
        host = self._allowed.hosts.get(place)
        if parts.username is not None or parts.query or parts.fragment or "\\" in reference or not (path := WADO.fullmatch(parts.path)):
            raise DataError("not a reference", where=where, allowed=FORMS)
        if host is None or parts.scheme != host.scheme:
            raise DataError("not at a host that this server fetches from", where=where, allowed="hosts of DXFLOW_REFERENCE_HOSTS")
        return _Target(where, url=f"{host.scheme}://{place}{parts.path}", host=host, one=path[1] is not None)

    def _fetch(self, target: _Target, place: Path, until: float) -> Path:
        """The file, or for a series the folder."""
        room = _Room(self._allowed.most_bytes, until, target.where)
        return _from_store(target, place, room) if target.key else _from_host(target, place, room)


@dataclass(frozen=True)
class _Target:
    where: str
    url: str = ""
    host: Host | None = None
    one: bool = False
    bucket: str = ""
    key: str = ""


class _Room:
    """What is left of a reference's bytes and time."""

    def __init__(self, most_bytes: int, until: float, where: str) -> None:
        self._most, self._left, self._until, self._where = most_bytes, most_bytes, until, where

    def take(self, n: int) -> None:
        self._left -= n
        if self._left < 0:
            raise DataError("larger than allowed", where=self._where, allowed=f"{self._most >> 20} MB")
        self.seconds()

    def seconds(self) -> float:
        """What is left. Raises ServiceError when it is nothing."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise ServiceError("what a reference names did not come in time", where=self._where)
        return left

    def sink(self, handle: IO[bytes]) -> Any:
        room = self

        class Sink:
            def write(self, block: bytes) -> int:
                room.take(len(block))
                return handle.write(block)

        return Sink()


def _from_store(target: _Target, place: Path, room: _Room) -> Path:
    from components.core.storage import open_store

    try:
        with open(place, "wb") as handle:
            open_store(f"s3://{target.bucket}").copy_to(target.key, room.sink(handle))
    except DataError as error:
        if error.where == target.where:
            raise
        raise DataError("no such object, or one that changes", where=target.where) from None
    except (ServiceError, SpecError) as error:
        if error.where == target.where:
            raise
        raise ServiceError("the store gives no object", where=f"bucket of {target.where}") from None
    return place


def _from_host(target: _Target, place: Path, room: _Room) -> Path:
    import urllib3

    assert target.host is not None
    headers = {"Accept": ACCEPT, "Accept-Encoding": "identity"}
    if target.host.authorization:
        headers["Authorization"] = target.host.authorization
    seconds = room.seconds()
    timeout = urllib3.Timeout(connect=min(CONNECT_S, seconds), read=seconds)
    try:
        with urllib3.PoolManager(retries=False, cert_reqs="CERT_REQUIRED") as pool:
            reply = pool.request("GET", target.url, headers=headers, redirect=False, preload_content=False, decode_content=False, timeout=timeout)
            try:
                _check(reply.status, target.where)
                boundary = boundary_of(reply.headers.get("Content-Type", ""))
                place.mkdir()
                count = split_parts(_blocks(reply, room), boundary, place, most=1 if target.one else MOST_PARTS)
            finally:
                reply.close()
    except DataError as error:
        raise DataError(error.what, where=target.where, allowed=error.allowed) from None
    except urllib3.exceptions.HTTPError as error:  # its text holds the address
        raise ServiceError("no answer from the host of a reference", where=target.where, got=type(error).__name__) from None
    if not count:
        raise DataError("nothing there", where=target.where)
    return next(place.iterdir()) if target.one else place


def _check(status: int, where: str) -> None:
    if status == 200:
        return
    if 300 <= status < 400:
        raise DataError("the host redirects, which is not followed", where=where)
    if status in (400, 404, 410):
        raise DataError("nothing there", where=where)
    raise ServiceError("the host of a reference refuses", where=where, got=f"HTTP {status}")


def _blocks(reply: Any, room: _Room) -> Iterator[bytes]:
    while block := reply.read1(BLOCK):  # what has come, so that a host that trickles meets the deadline
        room.take(len(block))
        yield block
