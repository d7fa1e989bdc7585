"""The audit log: who asked for what, when, with which outcome. Append-only, hash-chained, every line signed, its heads kept outside it.

    <folder>/<name>.log      `<sha256>.<signature> <json>` a line; the hash is of the line before it and of this one's JSON. Before decision 0243
                             `<sha256> <json>`: such files are verified as they were
    <heads>/<name>.heads     `<n> <hash> <time> <signature>`: every 100 lines, at the start and at the end
    <heads>/<name>.last      the newest line's head, written over with each line, so that a cut end is seen too
    <heads>/public.pem       the Ed25519 key that the signatures are checked with

One file for each process that writes, so nobody waits for a lock. `heads` belongs on another volume, with other rights than the log: who can write
both and has the private key can forge both. No patient data: names of staff, of models and of actions, and the ids of requests.

A line's signature is its head's: whoever can append to the file and has no key writes no line that passes, wherever the process ended. Lines that
no disk took are counted by an event `lost` as soon as one does, and once more by the last line, `end`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import secrets
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from components.core.errors import ServiceError
from components.core.home import home

EVERY = 100
PUBLIC = "public.pem"
LOG, HEADS, LAST = ".log", ".heads", ".last"
START, END, LOST = "start", "end", "lost"
"""Actions of the log's own."""
log = logging.getLogger("dxflow.serving")


class Audit:
    """Appends to a file of its own. Safe to share between threads.

    Args:
        folder: Of the log; made if absent.
        heads: Where signed heads are kept; made if absent.
        key: The private key, see `signing_key`.

    Raises:
        ServiceError: A folder cannot be written.
    """

    def __init__(self, folder: Path, heads: Path, key: Any) -> None:
        self._key, self._lock = key, threading.Lock()
        self.name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
        self._n, self._before = 0, genesis(self.name)
        self._head = b""
        self.lost = 0
        """Lines that no disk took since the start."""
        self._untold, self._failing = 0, False
        self._heads_due: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            heads.mkdir(parents=True, exist_ok=True)
            _publish(heads / PUBLIC, key)
            new = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            self._log = os.open(folder / f"{self.name}{LOG}", new | os.O_APPEND, 0o640)
            self._heads = os.open(heads / f"{self.name}{HEADS}", new | os.O_APPEND, 0o640)
            self._last = os.open(heads / f"{self.name}{LAST}", new, 0o640)
            self._put(START, {})
            self._sync(self._head)
        except OSError as error:
            raise ServiceError(f"the audit log cannot be written: {error.strerror}", where=str(error.filename or folder)) from None
        self._syncing = threading.Thread(target=self._sync_heads, name="audit", daemon=True)
        self._syncing.start()

    def append(self, action: str, **facts: str | int | bool | None) -> bool:
        """Write one line, without waiting for the disk to have it. Where the disk refuses, it is counted in `lost` and the result is False; the
        chain goes on behind it.

        Args:
            action: A word of ours.
            facts: Words and numbers of ours; None is left out.
        """
        with self._lock:
            try:
                if self._untold:
                    self._put(LOST, {"lines": self._untold})
                    self._untold = 0
                self._put(action, {name: value for name, value in facts.items() if value is not None})
            except OSError as error:
                self.lost += 1
                self._untold += 1
                if not self._failing:  # once for each outage
                    log.error("audit log: lines are lost: %s", error.strerror)
                self._failing = True
                return False
            self._failing = False
            if self._n % EVERY == 0:
                self._heads_due.put(self._head)
            return True

    def close(self) -> None:
        """Write and sign the end."""
        self.append(END, lost=self.lost)
        self._heads_due.put(None)
        self._syncing.join()
        with self._lock:
            try:
                self._sync(self._head)
            finally:
                for handle in (self._log, self._heads, self._last):
                    os.close(handle)

    def figures(self) -> Iterator[Any]:
        """For Prometheus: `dxflow_audit_lines_lost_total`."""
        from prometheus_client.core import CounterMetricFamily

        yield CounterMetricFamily("dxflow_audit_lines_lost", "Lines that the audit log could not take since the start.", value=self.lost)

    def _put(self, action: str, facts: dict[str, Any]) -> None:
        """One line and its head; both are made before either is written, so that a kill hardly ever comes between."""
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        n = self._n + 1
        text = json.dumps({"n": n, "time": time, "action": action} | facts, separators=(",", ":"), ensure_ascii=True)
        value = chained(self._before, text)
        signed = head_text(self.name, n, value, time)
        token = f"{value}.{self._key.sign(signed.encode()).hex()}"
        # Of constant length, so that one write over the last one replaces it whole.
        head = f"{signed.partition(' ')[2]} {token.partition('.')[2]}\n".encode()
        self._write(f"{token} {text}\n".encode())
        self._n, self._before, self._head = n, token, head
        with suppress(OSError):  # the line stands, and has its signature
            os.pwrite(self._last, head, 0)

    def _write(self, data: bytes) -> None:
        size = os.fstat(self._log).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(self._log, data[written:])
        except OSError:
            os.ftruncate(self._log, size)  # a torn line would break the chain for all that follow
            raise

    def _sync_heads(self) -> None:
        """On a thread of its own: a busy disk takes its time to sync, and no answer waits for that."""
        while (head := self._heads_due.get()) is not None:
            with suppress(OSError):  # the next head covers these lines too
                self._sync(head)

    def _sync(self, head: bytes) -> None:
        os.fsync(self._log)
        os.write(self._heads, head)
        os.fsync(self._heads)

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def genesis(name: str, *, signed: bool = True) -> str:
    """What the first line is chained to: a file that is renamed breaks at its first line, and one whose lines lose their signatures too."""
    return hashlib.sha256(f"dxflow audit {'signed ' if signed else ''}{name}".encode()).hexdigest()


def chained(before: str, text: str) -> str:
    """Args: before: What stands before the JSON of the line before, its signature too; of the first line `genesis`."""
    return hashlib.sha256(f"{before} {text}".encode()).hexdigest()


def head_text(name: str, n: int, last: str, time: str) -> str:
    """What is signed."""
    return f"{name} {n:012d} {last} {time}"


def check(heads: Path, key: Any) -> None:
    """Raises ServiceError where the heads were signed with another key."""
    if (heads / PUBLIC).exists():
        _publish(heads / PUBLIC, key)


def signing_key() -> Any:
    """The Ed25519 key of `DXFLOW_AUDIT_KEY_FILE`, else of `home()/audit.key`, which is made at first use, for the owner alone.

    Raises:
        ServiceError: The named file is absent or no such key.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    named = os.environ.get("DXFLOW_AUDIT_KEY_FILE")
    path = Path(named) if named else home() / "audit.key"
    if not path.exists() and named is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        data = Ed25519PrivateKey.generate().private_bytes(serialization.Encoding.PEM, form, plain)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with open(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as handle:
            handle.write(data)
        try:
            os.link(draft, path)  # two servers that start at once take the same one
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise ServiceError("not an Ed25519 key in PEM", where="DXFLOW_AUDIT_KEY_FILE", got=str(path))
    return key


def _publish(path: Path, key: Any) -> None:
    from cryptography.hazmat.primitives import serialization

    data = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    if path.exists():
        if path.read_bytes() != data:
            raise ServiceError("the heads were signed with another key", where=str(path), allowed="the same key, or another folder of heads")
        return
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    draft.write_bytes(data)
    draft.replace(path)
