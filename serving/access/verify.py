"""`dxflow audit verify`: reads logs and heads and says of each line that was changed, cut, dropped or put in where it was.

A server may write meanwhile: what its heads name before a log is read must be in it.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.core.errors import ServiceError
from serving.access.audit import END, HEADS, LAST, LOG, LOST, PUBLIC, chained, genesis, head_text

AGAIN_S = (0.02, 0.1)


@dataclass(frozen=True)
class Verified:
    """Args:
    files, lines: What was read.
    findings: One line each; none if all is as it was written.
    torn: Files whose last line a kill cut off.
    unsigned: Files whose last line has no signature: what a kill between a line and its head left before decision 0243, or somebody put there.
    lost: Lines that no disk took, as the log itself says.
    """

    files: int
    lines: int
    findings: tuple[str, ...]
    torn: tuple[str, ...]
    unsigned: tuple[str, ...] = ()
    lost: int = 0


@dataclass
class _Read:
    """A file as it was read, up to the first line that is wrong. Args: hashes: Of each line. cut: Bytes behind the last line's end."""

    hashes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    cut: bool = False
    signed: bool = False
    ended: bool = False
    lost: int = 0


def verify(folder: Path, heads: Path, public: Path | None = None) -> Verified:
    """Check every file that the log or the heads know.

    Args:
        public: The key to check with; by default the one beside the heads. Who does not trust their folder keeps a copy elsewhere.

    Raises:
        ServiceError: No log, or no usable key.
    """
    names = sorted({p.stem for p in folder.glob(f"*{LOG}")} | {p.stem for p in heads.glob(f"*{HEADS}")} | {p.stem for p in heads.glob(f"*{LAST}")})
    if not names:
        raise ServiceError("no audit log yet", where=str(folder), allowed="what dxflow serve writes")
    key = _public_key(public or heads / PUBLIC)
    findings, torn, unsigned = list[str](), list[str](), list[str]()
    lines = lost = 0
    for name in names:
        path = folder / f"{name}{LOG}"
        own: list[str] = []
        known = _heads(heads, name, key, own)
        if not path.exists():
            findings.append(f"{path}: the file is gone")
            continue
        read = _chain(path, name, key)
        findings += read.findings + own
        lines += len(read.hashes)
        lost += read.lost
        found, alone = _against(path, read, known, lambda name=name: _heads(heads, name, key, []))
        findings += found
        if alone:
            unsigned.append(str(path))
        if read.cut and read.ended:
            findings.append(f"{path}: bytes behind the end")
        elif read.cut:
            torn.append(str(path))
    return Verified(len(names), lines, tuple(findings), tuple(torn), tuple(unsigned), lost)


def _against(path: Path, read: _Read, known: dict[str, list[tuple[int, str]]], again: Any) -> tuple[list[str], bool]:
    """What the heads say of a file, and whether its last line is the only one that no head covers."""
    findings, n_lines = list[str](), len(read.hashes)
    killed_at_start = not any(known.values()) and n_lines <= (1 if read.signed else 0)  # before the first head
    if not known[HEADS] and not killed_at_start:
        findings.append(f"{path}: no signed head is there")
    for n, value in (head for part in known.values() for head in part):
        if n > n_lines:
            if not read.findings:
                findings.append(f"{path}: cut; {n_lines} lines are here, {n} were signed")
            break
        if n and read.hashes[n - 1] != value:
            findings.append(f"{path} line {n}: not the line that was signed")
            break
    if read.signed or findings or read.findings:
        return findings, False
    behind = n_lines - max((n for part in again().values() for n, _ in part), default=0)  # a server that is at work has signed them by now
    if behind > 1 or (behind == 1 and read.ended):
        findings.append(f"{path} line {n_lines - behind + 1}: behind the last line that was signed; {behind} lines have no signature")
    return findings, behind == 1 and not read.ended


def _chain(path: Path, name: str, key: Any) -> _Read:
    """Every line against the one before it; the signature of a line that another one follows is in that one's hash, so only the last is checked."""
    data, read = path.read_bytes(), _Read()
    read.signed = b"." in data.partition(b" ")[0]
    before = genesis(name, signed=read.signed)
    read.cut = bool(data) and not data.endswith(b"\n")
    last: tuple[str, str, str] | None = None
    for n, line in enumerate(data.split(b"\n")[:-1], 1):
        token, _, text = line.decode("utf-8", "replace").partition(" ")
        value, dot, signature = token.partition(".")
        event = _event(text)
        if read.ended:
            read.findings.append(f"{path} line {n}: behind the end of the file")
        elif value != chained(before, text):
            read.findings.append(f"{path} line {n}: changed, or a line before it is missing")
        elif event is None or event.get("n") != n:
            read.findings.append(f"{path} line {n}: out of order")
        elif bool(dot) != read.signed:
            read.findings.append(f"{path} line {n}: signed unlike the lines before it")
        if read.findings or event is None:
            break
        read.hashes.append(value)
        read.ended = event.get("action") == END
        if event.get("action") == LOST:
            read.lost += _count(event.get("lines"))
        elif read.ended:
            read.lost = max(read.lost, _count(event.get("lost")))
        last = (value, str(event.get("time")), signature)
        before = token
    if read.signed and last and not _is_signed(key, name, len(read.hashes), *last):
        read.findings.append(f"{path} line {len(read.hashes)}: the signature is not right")
    return read


def _event(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _heads(folder: Path, name: str, key: Any, findings: list[str]) -> dict[str, list[tuple[int, str]]]:
    """(lines, hash) of each signed head, by kind of file; one whose signature is wrong is a finding."""
    return {kind: _signed(folder / f"{name}{kind}", name, key, findings) for kind in (HEADS, LAST)}


def _signed(path: Path, name: str, key: Any, findings: list[str]) -> list[tuple[int, str]]:
    for pause_s in (*AGAIN_S, None):
        found, wrong = _read_heads(path, name, key)
        if not wrong or pause_s is None:
            break
        time.sleep(pause_s)  # a server may be writing it
    findings += wrong
    return found


def _read_heads(path: Path, name: str, key: Any) -> tuple[list[tuple[int, str]], list[str]]:
    found, wrong = list[tuple[int, str]](), list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else [], 1):
        parts = line.split(" ")
        if len(parts) != 4 or not parts[0].isascii() or not parts[0].isdigit() or not _is_signed(key, name, int(parts[0]), *parts[1:]):
            wrong.append(f"{path} line {number}: the signature is not right")
            continue
        found.append((int(parts[0]), parts[1]))
    return found, wrong


def _is_signed(key: Any, name: str, n: int, value: str, at: str, signature: str) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes.fromhex(signature), head_text(name, n, value, at).encode())
    except (ValueError, InvalidSignature):
        return False
    return True


def _public_key(path: Path) -> Any:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ServiceError("no Ed25519 public key in PEM", where=str(path))
    return key
