"""One file of a request, what the request says about it, and how much of the server one file may take."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from components.core.errors import DataError
from components.core.imaging.inflate import MOST_EXPANSION
from components.core.pseudonym import UNKNOWN_DEVICE
from serving.kinds import HEAD

__all__ = ["MOST_EXPANSION", "MOST_WINDOWS", "Body", "device_or"]

MOST_WINDOWS = 8192
"""Of one recording: three hours at a window every 1.28 seconds."""


@dataclass(frozen=True)
class Body:
    """One file.

    Args:
        content: Its bytes, or where it lies; a folder holds the files of one DICOM series.
        where: Its place in the request, for errors.
        names: What the request calls `row`, `column` and `window`, for errors.
        row, column: Point of interest in pixels of the image, for models that look at a patch.
        window: The window of a recording that is asked for, from 0; None: all.
        device: Keyed hash that the client names; None where it names none. What DICOM or a recording's head says goes before it; EXIF does not.
        mpp: Microns of a pixel of a slide that does not say it itself.
    """

    content: bytes | Path
    where: str = "body"
    names: tuple[str, str, str] = ("row", "column", "window")
    row: float | None = None
    column: float | None = None
    window: int | None = None
    device: str | None = None
    mpp: float | None = None

    def open(self) -> AbstractContextManager[BinaryIO]:
        """A seekable handle on the content."""
        return io.BytesIO(self.content) if isinstance(self.content, bytes) else open(self.content, "rb")

    def head(self) -> bytes:
        """The first bytes; of a folder, those of its first file."""
        if isinstance(self.content, bytes):
            return self.content[:HEAD]
        path = min(self.content.iterdir()) if self.content.is_dir() else self.content
        with open(path, "rb") as handle:
            return handle.read(HEAD)

    def size(self) -> int:
        """Bytes; of a folder, those of its largest file."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return max(p.stat().st_size for p in self.content.iterdir()) if self.content.is_dir() else self.content.stat().st_size

    def file(self) -> bytes | Path:
        """The content where one file is meant. Raises DataError for a series."""
        if isinstance(self.content, Path) and self.content.is_dir():
            raise DataError("a series where one file is meant", where=self.where, allowed="one image")
        return self.content

    def device_or(self, found: str = UNKNOWN_DEVICE) -> str:
        """The device that the file names, else the one that the client names."""
        return device_or(found, self.device)


def device_or(found: str, told: str | None) -> str:
    """The device that a file names, else the one that was told."""
    return found if found != UNKNOWN_DEVICE else told or UNKNOWN_DEVICE
