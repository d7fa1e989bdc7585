"""The frame of encapsulated pixels: items one after the other, then a delimiter."""

from __future__ import annotations

import struct
from typing import BinaryIO

from components.core.imaging.errors import NotUsable

ITEM, DELIMITER = (0xFFFE, 0xE000), (0xFFFE, 0xE0DD)


def check_fragments(handle: BinaryIO, *, start: int, end: int, closed: bool) -> None:
    """Walk the items from `start` without reading them: each must lie before `end`.

    Args:
        end: End of the file, or of the element where its length is given.
        closed: Whether a delimiter must follow the last item.

    Raises:
        NotUsable: They do not.

    Source:
        DICOM PS3.5 A.4.
    """
    here = start
    while here + 8 <= end:
        handle.seek(here)
        group, element, length = struct.unpack("<HHL", handle.read(8))
        if (group, element) == DELIMITER:
            return
        if (group, element) != ITEM:
            raise NotUsable("damaged: no pixel fragment where one should start", offset=here)
        here += 8 + length
    if closed or here > end:
        raise NotUsable("truncated: pixels end early", offset=end)
