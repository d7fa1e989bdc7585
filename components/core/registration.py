"""`registration.json`: what the registry answered about a package. It is written after the package's digest exists, so it carries a seal of its own.

Its `version` is told in every answer and its `replaces` say whose answers count as the model's own: a changed byte would be a wrong answer, so a file
that is not what was written is refused. Against somebody who may write into the folder no seal helps; the registry's word wins over the file's
wherever a model is served by name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.core.errors import DataError

NAME, SEAL = "registration.json", "seal"
MAX_BYTES = 1 << 20
DIGEST, VERSION = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9]{1,9}")
MAX_REPLACED = 10_000  # erasures of one package
KEYS = {"name", "registered_name", "version", "alias", "verdict", "reasons", "gates", "digest", "uri", "synthetic", "replaces"}
"""No other: a seal whose own name is damaged must not count as none."""


def text(record: Mapping[str, Any]) -> str:
    """The file's content: the record with its seal."""
    return json.dumps({**record, SEAL: _seal(record)}, indent=1, sort_keys=True)


def read(folder: Path, digest: str) -> dict[str, Any]:
    """The record beside a package; empty where there is none, as for a package that did not come through a registry.

    Args:
        digest: The package's own, which the record must name.

    Raises:
        DataError: Not what was written, of another package, or not of its form. A file of before there were seals needs its form only.
    """
    path = folder / NAME
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _wrong(path, f"{path.stat().st_size} bytes")
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise _wrong(path, "no JSON") from None
    if not isinstance(record, dict):
        raise _wrong(path, type(record).__name__)
    seal = record.pop(SEAL, None)
    if seal is not None and seal != _seal(record):
        raise _wrong(path, "another content than its seal")
    if record.keys() - KEYS:
        raise _wrong(path, "unknown keys")
    version, replaces = record.get("version"), record.get("replaces", [])
    if version is not None and not (isinstance(version, str) and VERSION.fullmatch(version)):
        raise _wrong(path, "a version that is no number")
    if record.get("digest") != digest:
        raise DataError("the registration of another package", where=str(path), allowed=f"digest {digest[:12]}")
    known = isinstance(replaces, list) and len(replaces) <= MAX_REPLACED
    if not known or not all(isinstance(one, str) and DIGEST.fullmatch(one) for one in replaces):
        raise _wrong(path, "replaced digests that are none")
    return record


def _seal(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps({k: v for k, v in record.items() if k != SEAL}, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _wrong(path: Path, got: str) -> DataError:
    return DataError("not what register wrote", where=str(path), got=got, allowed="the file as it stands in the store, or none")
