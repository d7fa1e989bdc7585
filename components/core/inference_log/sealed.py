"""Opening a compacted segment: its bytes are those that were written, or it is not read.

The manifest has the digest of the whole file, footer and all; each page has a CRC-32 beside it, which holds where the digest is unknown and while the
pages are read. A segment of an older version has neither: it is read as it stands, and counted as unverified.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.errors import DataError
from components.core.inference_log import manifest
from components.core.inference_log.manifest import Entry, Facts
from components.core.inference_log.segments import PARQUET, named

if TYPE_CHECKING:
    import pyarrow.parquet as pq

META = b"dxflow"
CHECKED = "checked"
"""Key in `META` of a segment whose pages have checksums, and which the manifest must know."""


@dataclass(frozen=True)
class Opened:
    """One segment, open.

    Args:
        digest: Whether its SHA-256 is the manifest's.
        checked: Whether its pages have checksums; such a segment without `digest` has lost its line of the manifest.
    """

    file: pq.ParquetFile
    facts: Facts
    digest: bool
    checked: bool


@contextmanager
def opened(folder: Path, number: int, known: dict[int, Entry]) -> Iterator[Opened]:
    """Verify and open.

    Args:
        known: The manifest as it was read before; brought up to date where the file does not fit it.

    Raises:
        FileNotFoundError: There is none. DataError: It is damaged, now or while it is read; names the file.
    """
    import pyarrow.parquet as pq

    path = named(folder, number, PARQUET)
    handle = _verified(path, folder, number, known)
    with handle, readable(path), pq.ParquetFile(handle, page_checksum_verification=True) as file:
        told = json.loads((file.metadata.metadata or {})[META])
        entry = known.get(number)
        yield Opened(file, Facts.from_dict(told), bool(entry and entry.sha256), bool(told.get(CHECKED)))


def _verified(path: Path, folder: Path, number: int, known: dict[int, Entry]) -> BufferedReader:
    """The file, open, with a digest that the manifest has, or without one where it has none."""
    while True:
        handle = open(path, "rb")  # noqa: SIM115 - the caller closes it
        try:
            found = manifest.digest(handle)
            if _fits(known.get(number), found):
                return handle
            known.clear()  # perhaps it was compacted or erased from since: its line is older than its name, so it must be there by now
            known.update(manifest.read(folder))
            if _fits(known.get(number), found) or not known.get(number, Entry("")).sha256:
                return handle
            if os.path.samestat(os.stat(path), os.fstat(handle.fileno())):
                raise DataError("a compacted segment was changed", where=str(path), got="another SHA-256")
        except BaseException:
            handle.close()
            raise
        handle.close()  # erased from once more while we looked: its successor


def _fits(entry: Entry | None, digest: str) -> bool:
    return entry is not None and bool(entry.sha256) and digest in (entry.sha256, entry.before)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever a damaged Parquet file makes Arrow raise, as one line."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
        raise DataError("a compacted segment cannot be read", where=str(path), got=type(error).__name__) from None
