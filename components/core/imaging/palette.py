"""Stored values that stand for colours: the palette of a header, and its colours in place of the values."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.imaging.fields import Fields

PALETTE = "PALETTE COLOR"
DESCRIPTORS, TABLES, SEGMENTED = (0x00281101, 0x00281102, 0x00281103), (0x00281201, 0x00281202, 0x00281203), (0x00281221, 0x00281222, 0x00281223)
MOST_BYTES = 2 * 65_536


@dataclass(frozen=True)
class Palette:
    """(3, n) colours of 8 bits for the stored values from `first` on; values below and above take the first and the last."""

    first: int
    colours: NDArray[np.uint8]

    def __call__(self, stored: NDArray[Any]) -> NDArray[np.uint8]:
        """(rows, columns) stored values -> (rows, columns, 3) RGB."""
        place = np.clip(stored.astype(np.int64) - self.first, 0, self.colours.shape[1] - 1)
        return np.ascontiguousarray(self.colours.T)[place]


def read_palette(fields: Fields, handle: BinaryIO) -> Palette:
    """The palette of a header; entries of 16 bits give their upper 8.

    Raises:
        NotUsable: It is not whole, or its colours contradict each other.

    Source:
        DICOM PS3.3 C.7.6.3.1.5 (descriptor: entries, first value, bits), C.7.9.2 (segments).
    """
    signed = bool(fields.short(0x00280103))
    heads = []
    for tag in DESCRIPTORS:
        data = fields.raw(tag)
        if len(data) != 6:
            raise NotUsable("palette colours without a palette")
        entries, first, bits = struct.unpack(f"{fields.order}H{'h' if signed else 'H'}H", data)
        heads.append((entries or 65_536, first, bits))
    (entries, first, bits) = heads[0]
    if len(set(heads)) != 1 or bits not in (8, 16):
        raise NotUsable("palette colours that contradict each other")
    here = handle.tell()
    try:
        colours = [_table(fields, handle, plain, cut, entries, bits) for plain, cut in zip(TABLES, SEGMENTED, strict=True)]
    finally:
        handle.seek(here)
    return Palette(first, np.stack(colours))


def _table(fields: Fields, handle: BinaryIO, plain: int, cut: int, entries: int, bits: int) -> NDArray[np.uint8]:
    whole = _bytes(fields, handle, plain)
    if whole:
        if bits == 8 and len(whole) in (entries, entries + 1):  # an odd number is padded; one byte an entry
            return np.frombuffer(whole[:entries], np.uint8)
        words = np.frombuffer(whole[: len(whole) // 2 * 2], f"{fields.order}u2")
    else:
        words = _expanded(_bytes(fields, handle, cut), fields.order, bits, entries)
    if len(words) != entries:
        raise NotUsable("palette colours without a palette")
    return (words if bits == 8 else words >> 8).astype(np.uint8)


def _bytes(fields: Fields, handle: BinaryIO, tag: int) -> bytes:
    """The value of a table; long ones are not read with the header."""
    element = fields.parsed.elements.get(tag)
    length = int(getattr(element, "length", 0) or 0)
    if element is None or not length:
        return b""
    if length > MOST_BYTES:
        raise NotUsable("palette colours that contradict each other")
    if found := fields.raw(tag):
        return found
    handle.seek(element.value_tell)
    return handle.read(length)


def _expanded(data: bytes, order: str, bits: int, entries: int) -> NDArray[np.uint16]:
    """The entries that segments stand for: discrete (0) and linear (1) ones; those that point at others are refused."""
    kind = "u1" if bits == 8 else "u2"
    words = np.frombuffer(data[: len(data) // np.dtype(kind).itemsize * np.dtype(kind).itemsize], f"{order}{kind}").astype(np.int64)
    found: list[NDArray[Any]] = []
    here, have = 0, 0
    while have < entries and here + 2 <= len(words):
        opcode, length = int(words[here]), int(words[here + 1])
        if opcode == 0:
            piece = words[here + 2 : here + 2 + length]
            here += 2 + length
        elif opcode == 1 and found and here + 3 <= len(words):
            piece = np.linspace(int(found[-1][-1]), int(words[here + 2]), length + 1)[1:]
            here += 3
        else:
            raise NotUsable("palette colours in segments that point at others")
        if not length or len(piece) < length:
            raise NotUsable("palette colours without a palette")
        found.append(piece)
        have += length
    whole = np.concatenate(found) if found else np.zeros(0)
    return np.rint(whole).astype(np.uint16)
