"""Photographs and other pictures (JPEG, PNG, TIFF, BMP, PGM, PPM, WebP): one decoder for training and for the server.

What can be read in two ways is not read: colours of print, 16 bits a colour, several pictures in one file are each refused by name.
"""

from __future__ import annotations

import io
import logging
import warnings
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.imaging import picture_kinds
from components.core.imaging.codestreams import MOST_SCANS, SCAN, SCANS_OF_LARGEST, announced, check_work
from components.core.imaging.errors import NotUsable
from components.core.imaging.inflate import UNPACKED_FREELY
from components.core.imaging.picture_kinds import Kind
from components.core.imaging.picture_values import check_depth, values
from components.core.imaging.plain_png import plain_png
from components.core.imaging.png_chunks import check
from components.core.imaging.tiff_deflate import DeflatedPieces

MAKER_TAG, MODEL_TAG, ORIENTATION_TAG = 0x010F, 0x0110, 0x0112  # EXIF 2.3, table 4: Make, Model, Orientation
HEAD = 4096


@dataclass(frozen=True)
class Picture:
    """One picture.

    Args:
        pixels: (H, W), or (H, W, 3) RGB, the way up that EXIF says a viewer shows it; no colour profile is applied. What is transparent shows
            black, as what no light fell on.
        maker, model: Of the camera, as EXIF says it; "" where it does not. For vocabularies and keyed hashes only.
        others: How many further pictures a phone put behind it (MPO: a preview, a depth map), which are not read.
    """

    pixels: NDArray[Any]
    maker: str
    model: str
    others: int = 0


def decode_picture(handle: BinaryIO, *, most_pixels: int, most_expansion: float | None = None) -> Picture:
    """Decode one file, whose kind its first bytes say; its size and what it costs are checked before its pixels are decoded.

    Args:
        most_expansion: How many times its own length a file may unpack to beyond 8 MiB; None: any number of times.

    Raises:
        NotUsable: None of `picture_kinds.KINDS`, damaged, over a limit, or without one meaning.
    """
    from PIL import Image

    length = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    head = handle.read(HEAD)
    handle.seek(0)
    kind = picture_kinds.kind_of(head)
    if kind is None:
        raise NotUsable("not an image, or a damaged one")
    most_bytes = max(UNPACKED_FREELY, most_expansion * length) if most_expansion is not None else np.inf

    def check_size(width: int, height: int) -> None:
        if width * height > most_pixels:
            raise NotUsable("image over limits.pixels_per_image")
        if 3 * width * height > most_bytes:
            raise NotUsable("pixels that unpack to more than is believable")

    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked, with a reason
    logging.getLogger("PIL").setLevel(logging.CRITICAL + 1)  # it logs tags with their values
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if kind is picture_kinds.WEBP:  # its decoder takes memory for all pixels as soon as it is opened
                check_size(*_webp_size(head))
            with Image.open(handle, formats=(kind.plugin,)) as image:
                check_size(image.width, image.height)
                if kind is picture_kinds.PNG:
                    check(handle)
                if (pixels := plain_png(image, handle)) is not None:
                    return Picture(pixels, "", "")
                others = _check_one(image, kind)
                check_depth(image, kind, head)
                if kind is picture_kinds.JPEG:
                    _check_scans(handle, most_pixels)
                elif kind is picture_kinds.TIFF:
                    _check_tiff(image, handle, most_pixels)
                    here = handle.tell()
                    DeflatedPieces(handle).check(image.width, image.height)
                    handle.seek(here)
                image.load()  # before EXIF: reading that of a PNG loads it too, and what then fails looks loaded afterwards, its missing rows black
                maker, model, orientation = _camera(image)
                return Picture(turned(values(image), orientation), maker, model, others)
        except (NotUsable, MemoryError):
            raise
        except Exception:  # a decoder meeting damaged bytes may raise anything; its message may hold a value
            raise NotUsable("not an image, or a damaged one") from None


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Rows and columns as a viewer shows them.

    Args:
        orientation: 1 to 8: which sides the stored first row and first column are; anything else is 1.

    Source:
        EXIF 2.3, table 6.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels) if orientation in range(2, 9) else pixels


def _check_one(image: Any, kind: Kind) -> int:
    """How many pictures a phone put behind the first; raises NotUsable for the pages of a TIFF and the frames of an animation."""
    if kind is picture_kinds.JPEG:
        return max(0, getattr(image, "n_frames", 1) - 1)
    if kind is picture_kinds.TIFF:
        try:
            image.seek(1)  # the second directory and no more: counting all may take for ever
        except EOFError:
            return 0
        raise NotUsable("several pictures in one file")
    if getattr(image, "n_frames", 1) > 1:
        raise NotUsable("several pictures in one file")
    return 0


def _check_scans(handle: BinaryIO, most_pixels: int) -> None:
    handle.seek(0)
    data = handle.read()
    handle.seek(0)
    if data.count(SCAN) > SCANS_OF_LARGEST and (found := announced(data)) is not None:  # previews have scans too: a count is at most too high
        check_work(found, most_pixels=most_pixels)


def _check_tiff(image: Any, handle: BinaryIO, most_pixels: int) -> None:
    """A tile of a TIFF is decoded whole, however small the picture is; so is every scan of a JPEG in it."""
    tags = image.tag_v2
    wide, high = int(tags.get(322, image.width)), int(tags.get(323, min(int(tags.get(278, image.height)), image.height)))
    pieces = max(1, -(-image.width // max(wide, 1))) * max(1, -(-image.height // max(high, 1)))
    if wide * high > max(2 * image.width * image.height, 1 << 20):
        raise NotUsable("a TIFF whose tiles are larger than its picture")
    if int(tags.get(259, 1)) in (6, 7):
        here = handle.tell()
        handle.seek(0)
        scans = handle.read().count(SCAN)
        handle.seek(here)
        if scans > MOST_SCANS * pieces or (scans > pieces and scans * wide * high > SCANS_OF_LARGEST * most_pixels):
            raise NotUsable("a JPEG of more scans than its size allows")


def _webp_size(head: bytes) -> tuple[int, int]:
    """Width and height, by the container's first chunk (RFC 9649, 2.5 to 2.7)."""
    chunk, body = head[12:16], head[20:]
    if chunk == b"VP8X" and len(body) >= 10:
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if chunk == b"VP8L" and body[:1] == b"\x2f":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    raise NotUsable("not an image, or a damaged one")


def _camera(image: Any) -> tuple[str, str, int]:
    """Maker, model and orientation; EXIF that cannot be read costs these and not the picture."""
    try:
        exif = image.getexif()
        found = [exif.get(tag) for tag in (MAKER_TAG, MODEL_TAG)]
        orientation = exif.get(ORIENTATION_TAG, 1)
    except Exception:  # EXIF is other people's TIFF: its parser may raise anything
        return "", "", 1
    maker, model = (value.strip(" \0")[:64] if isinstance(value, str) else "" for value in found)
    return maker, model, orientation if isinstance(orientation, int) else 1
