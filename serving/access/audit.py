"""The audit log: who asked for what, when, with which outcome. Append-only, hash-chained, its heads signed and kept outside it.

    <folder>/<name>.log      `<sha256> <json>` a line; the hash is of the line before it and of this one's JSON
    <heads>/<name>.heads     `<n> <hash> <time> <signature>`: every 100 lines, at the start and at the end
    <heads>/<name>.last      the newest line's head, written over with each line, so that a cut end is seen too
    <heads>/public.pem       the Ed25519 key that the signatures are checked with

One file for each process that writes, so nobody waits for a lock. `heads` belongs on another volume, with other rights than the log: who can write
both and has the private key can forge both. No patient data: names of staff, of models and of actions, and the ids of requests.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from components.core.errors import ServiceError
from components.core.home import home

EVERY = 100
PUBLIC = "public.pem"
LOG, HEADS, LAST = ".log", ".heads", ".last"


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
        self._n, self._hash = 0, genesis(self.name)
        self.lost = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            heads.mkdir(parents=True, exist_ok=True)
            _publish(heads / PUBLIC, key)
            new = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            self._log = os.open(folder / f"{self.name}{LOG}", new | os.O_APPEND, 0o640)
            self._heads = os.open(heads / f"{self.name}{HEADS}", new | os.O_APPEND, 0o640)
            self._last = os.open(heads / f"{self.name}{LAST}", new, 0o640)
            self.append("start")
            self._sign()
        except OSError as error:
            raise ServiceError(f"the audit log cannot be written: {error.strerror}", where=str(error.filename or folder)) from None

    def append(self, action: str, **facts: str | int | bool | None) -> bool:
        """Write one line. Where the disk refuses, it is counted in `lost` and the result is False; the chain goes on behind it.

        Args:
            action: A word of ours.
            facts: Words and numbers of ours; None is left out.
        """
        with self._lock:
            event = {"n": self._n + 1, "time": datetime.now(UTC).isoformat(timespec="microseconds"), "action": action}
            event |= {name: value for name, value in facts.items() if value is not None}
            text = json.dumps(event, separators=(",", ":"), ensure_ascii=True)
            after = chained(self._hash, text)
            try:
                self._write(f"{after} {text}\n".encode())
            except OSError:
                self.lost += 1
                return False
            self._n, self._hash = self._n + 1, after
            try:
                os.pwrite(self._last, self._head().encode(), 0)
                if self._n % EVERY == 0:
                    self._sign()
            except OSError:  # the line stands; the next head covers it
                pass
            return True

    def close(self) -> None:
        """Write and sign the end."""
        self.append("end", lost=self.lost)
        with self._lock:
            try:
                self._sign()
            finally:
                for handle in (self._log, self._heads, self._last):
                    os.close(handle)

    def _write(self, data: bytes) -> None:
        size = os.fstat(self._log).st_size
        written = 0
        try:
            while written < len(data):
                written += os.write(self._log, data[written:])
        except OSError:
            os.ftruncate(self._log, size)  # a torn line would break the chain for all that follow
            raise

    def _sign(self) -> None:
        os.fsync(self._log)
        os.write(self._heads, self._head().encode())
        os.fsync(self._heads)

    def _head(self) -> str:
        """Of constant length, so that one write over the last one replaces it whole."""
        signed = head_text(self.name, self._n, self._hash, datetime.now(UTC).isoformat(timespec="microseconds"))
        return f"{signed.partition(' ')[2]} {self._key.sign(signed.encode()).hex()}\n"

    def __enter__(self) -> Audit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def genesis(name: str) -> str:
    """What the first line is chained to: a file that is renamed breaks at its first line."""
    return hashlib.sha256(f"dxflow audit {name}".encode()).hexdigest()


def chained(before: str, text: str) -> str:
    return hashlib.sha256(f"{before} {text}".encode()).hexdigest()


def head_text(name: str, n: int, last: str, time: str) -> str:
    """What is signed."""
    return f"{name} {n:012d} {last} {time}"


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
