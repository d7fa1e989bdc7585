"""A file in memory whose bytes can be looked at without a copy."""

from __future__ import annotations

import io
from typing import BinaryIO


class InMemory(io.BytesIO):
    """Args: data: The file."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = memoryview(data)


def stretch(handle: BinaryIO, at: int, length: int) -> bytes | memoryview:
    """`length` bytes from `at` on, fewer where the file ends before."""
    if isinstance(handle, InMemory):
        return handle.data[at : at + length]
    handle.seek(at)
    return handle.read(length)
