"""The Adler-32 of deflated TIFF: one stands at the end of every strip and tile, and a decoder that has its pixels before does not ask for it.

JPEG, JPEG 2000, LZW and plain strips have no checksum, nor has a TIFF's directory: these are believed.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable

DEFLATE = (8, 32946)
MOST_DIRECTORIES = 256
MOST_PIECES = 1 << 22  # tiles of a level: 245,000 pixels a side in tiles of 128
TYPES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


@dataclass
class _Level:
    """One deflated picture of a file: its size, that of its pieces (strips are as wide as it), where they lie, and which were found good."""

    width: int
    height: int
    side: tuple[int, int]
    offsets: NDArray[Any]
    counts: NDArray[Any]
    planes: int
    most_bytes: int
    good: set[int]


class DeflatedPieces:
    """The checksums of a file, asked for piece by piece.

    Args:
        handle: Seekable, and open as long as this is used. Not a TIFF, or a damaged one: there is nothing to ask for.

    Source:
        TIFF 6.0, sections 2, 8 and 15; Technical Note 2 (deflate is a Zlib stream, RFC 1950); BigTIFF.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._levels: list[_Level] = []
        handle.seek(0)
        head = handle.read(16)
        self._order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        try:
            if self._order:
                version = self._number(head[2:4])
                self._big = version == 43
                if version in (42, 43):
                    self._read(self._number(head[8:16] if self._big else head[4:8]))
        except (ValueError, OverflowError):
            self._levels = []  # whoever decodes it says what is wrong

    def check(self, width: int, height: int, x: float = 0, y: float = 0, wide: float | None = None, high: float | None = None) -> None:
        """Ask for the checksums of a picture's pieces.

        Args:
            width, height: Of the picture: the level that is meant.
            x, y, wide, high: The part that is looked at, in its pixels; by default all of it.

        Raises:
            NotUsable: One does not hold.
        """
        for level in self._levels:
            if (level.width, level.height) == (width, height):
                self._check(level, x, y, width if wide is None else wide, height if high is None else high)

    def _check(self, level: _Level, x: float, y: float, wide: float, high: float) -> None:
        across, down = -(-level.width // level.side[0]), -(-level.height // level.side[1])
        columns = range(max(0, int(x // level.side[0])), min(across - 1, int((x + wide) // level.side[0])) + 1)
        rows = range(max(0, int(y // level.side[1])), min(down - 1, int((y + high) // level.side[1])) + 1)
        for plane in range(level.planes):
            for row in rows:
                for column in columns:
                    piece = (plane * down + row) * across + column
                    if piece not in level.good and piece < len(level.offsets):
                        self._piece(level, piece)

    def _piece(self, level: _Level, piece: int) -> None:
        offset, count = int(level.offsets[piece]), int(level.counts[piece])
        if count:  # an empty one was never scanned
            self._handle.seek(offset)
            unpacker = zlib.decompressobj()
            try:
                found = unpacker.decompress(self._handle.read(count), level.most_bytes + 1)
            except zlib.error:
                found = None
            if found is None or not unpacker.eof or len(found) > level.most_bytes:
                raise NotUsable("damaged TIFF: a checksum of its pixels does not hold", offset=offset)
        level.good.add(piece)

    def _read(self, at: int) -> None:
        seen: set[int] = set()
        while at and at not in seen and len(seen) < MOST_DIRECTORIES:
            seen.add(at)
            self._handle.seek(at)
            count = self._number(self._handle.read(8 if self._big else 2))
            if count > 4096:
                return
            size = 20 if self._big else 12
            entries = self._handle.read(count * size)
            at = self._number(self._handle.read(8 if self._big else 4))
            tags = {}
            for n in range(count):
                entry = entries[n * size : (n + 1) * size]
                tags[self._number(entry[:2])] = entry
            if (level := self._level(tags)) is not None:
                self._levels.append(level)

    def _level(self, tags: dict[int, bytes]) -> _Level | None:
        def values(tag: int) -> NDArray[Any]:
            return self._values(tags[tag]) if tag in tags else np.zeros(1, np.uint8)

        def first(tag: int, otherwise: int = 0) -> int:
            return int(values(tag)[0]) if tag in tags else otherwise

        if first(259, 1) not in DEFLATE:
            return None
        width, height = first(256), first(257)
        tiled = 322 in tags
        side = (first(322), first(323)) if tiled else (width, min(height, first(278, height)))
        if min(width, height, *side) < 1:
            return None
        samples, bits = first(277, 1), int(values(258).max()) or 1
        planes = samples if first(284, 1) == 2 else 1
        row = -(-side[0] * (samples // planes) * bits // 8)
        offsets, counts = values(324 if tiled else 273), values(325 if tiled else 279)
        return _Level(width, height, side, offsets, counts, planes, row * side[1], set()) if len(offsets) == len(counts) else None

    def _values(self, entry: bytes) -> NDArray[Any]:
        """(count,) whole numbers of an entry, as they lie in the file: a slide has a million of them."""
        kind, place = self._number(entry[2:4]), 12 if self._big else 8
        count, dtype = self._number(entry[4:place]), np.dtype(f"{self._order}{TYPES.get(kind, 'u1')}")
        if not 1 <= count <= MOST_PIECES:
            raise ValueError("no values, or more than any slide has tiles")
        data = entry[place:]
        if count * dtype.itemsize > len(data):
            self._handle.seek(self._number(data))
            data = self._handle.read(count * dtype.itemsize)
        return np.frombuffer(data, dtype, count)

    def _number(self, data: bytes) -> int:
        if len(data) not in (2, 4, 8):
            raise ValueError("the file ends early")
        return int.from_bytes(data, "little" if self._order == "<" else "big")
