"""The one way to read a secret: the value of a variable, else the file that `<NAME>_FILE` names.

A Kubernetes Secret, `echo` and most editors put a newline behind a value, and whether it arrives depends on the way: as a variable it does,
from a file it was always taken off. Blanks and newlines at both ends are never part of a secret here, so one secret is one value, whichever way
it comes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from components.core.errors import ServiceError

LARGEST = 1 << 20  # bytes of a file that is said to hold a secret


def secret_bytes(name: str, environment: Mapping[str, str] | None = None) -> bytes | None:
    """The secret `name`, without blanks and newlines at its ends; None where neither the variable nor its file is named. A blank one is b"".

    Args:
        environment: By default the process's own.

    Raises:
        ServiceError: The named file is absent, cannot be read, or is far too large; the value is never in the message.
    """
    values = os.environ if environment is None else environment
    if text := values.get(name, ""):
        return os.fsencode(text).strip()
    place = values.get(f"{name}_FILE", "").strip()
    return file_bytes(Path(place), where=f"{name}_FILE") if place else None


def secret(name: str, environment: Mapping[str, str] | None = None) -> str | None:
    """`secret_bytes` as text; None also for a blank one. Raises ServiceError also where it is no UTF-8."""
    found = secret_bytes(name, environment)
    try:
        return found.decode() if found else None
    except UnicodeDecodeError:
        raise ServiceError("a secret that is no UTF-8 text", where=name) from None


def file_bytes(path: Path, *, where: str) -> bytes:
    """What a secret's file holds, without blanks and newlines at its ends. Raises ServiceError where it cannot be read."""
    try:
        with open(path, "rb") as handle:
            data = handle.read(LARGEST + 1)
    except OSError:
        raise ServiceError("no such key file", where=where, got=str(path)) from None
    if len(data) > LARGEST:
        raise ServiceError("not a secret", where=where, got="over 1 MB")
    return data.strip()
