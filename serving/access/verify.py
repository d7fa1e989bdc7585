"""`dxflow audit verify`: reads logs and heads and says of each line that was changed, cut or dropped where it was."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.errors import ServiceError
from serving.access.audit import HEADS, LAST, LOG, PUBLIC, chained, genesis, head_text


@dataclass(frozen=True)
class Verified:
    """Args: files, lines: what was read; findings: one line each, none if all is as it was written; torn: files whose last line a kill cut off."""

    files: int
    lines: int
    findings: tuple[str, ...]
    torn: tuple[str, ...]


def verify(folder: Path, heads: Path, public: Path | None = None) -> Verified:
    """Check every file that the log or the heads know.

    Args:
        public: The key to check with; by default the one beside the heads. Who does not trust their folder keeps a copy elsewhere.

    Raises:
        ServiceError: No log, or no usable key.
    """
    key = _public_key(public or heads / PUBLIC)
    names = sorted({p.stem for p in folder.glob(f"*{LOG}")} | {p.stem for p in heads.glob(f"*{HEADS}")} | {p.stem for p in heads.glob(f"*{LAST}")})
    if not names:
        raise ServiceError("no audit log", where=str(folder))
    findings: list[str] = []
    torn: list[str] = []
    lines = 0
    for name in names:
        path = folder / f"{name}{LOG}"
        if not path.exists():
            findings.append(f"{path}: the file is gone")
            continue
        hashes, found, cut = _chain(path, name)
        findings += found
        lines += len(hashes)
        known = [_heads(heads / f"{name}{kind}", name, key, findings) for kind in (HEADS, LAST)]
        if not known[0]:
            findings.append(f"{path}: no signed head is there")
        for n, value in (head for part in known for head in part):
            if n > len(hashes):
                findings.append(f"{path}: cut; {len(hashes)} lines are here, {n} were signed")
                break
            if n and hashes[n - 1] != value:
                findings.append(f"{path} line {n}: not the line that was signed")
                break
        if cut:
            torn.append(str(path))
    return Verified(len(names), lines, tuple(findings), tuple(torn))


def _chain(path: Path, name: str) -> tuple[list[str], list[str], bool]:
    """The hash of each line, what is wrong with the first wrong one, and whether the end is torn."""
    before, hashes = genesis(name), []
    data = path.read_bytes()
    cut = bool(data) and not data.endswith(b"\n")
    for n, line in enumerate(data.split(b"\n")[:-1], 1):
        value, _, text = line.decode("utf-8", "replace").partition(" ")
        if value != chained(before, text):
            return hashes, [f"{path} line {n}: changed, or a line before it is missing"], cut
        if _number(text) != n:
            return hashes, [f"{path} line {n}: out of order"], cut
        hashes.append(value)
        before = value
    return hashes, [], cut


def _number(text: str) -> Any:
    try:
        return json.loads(text)["n"]
    except (ValueError, KeyError, TypeError):
        return None


def _heads(path: Path, name: str, key: Any, findings: list[str]) -> list[tuple[int, str]]:
    """(lines, hash) of each signed head; one whose signature is wrong is a finding."""
    from cryptography.exceptions import InvalidSignature

    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else [], 1):
        parts = line.split(" ")
        try:
            n, value, time, signature = parts
            key.verify(bytes.fromhex(signature), head_text(name, int(n), value, time).encode())
        except (ValueError, InvalidSignature):
            findings.append(f"{path} line {number}: the signature is not right")
            continue
        found.append((int(n), value))
    return found


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
