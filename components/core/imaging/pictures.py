"""Photographs and other pictures (PNG, JPEG and their kin): one decoder for training and for the server."""

from __future__ import annotations

import io
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.imaging.inflate import UNPACKED_FREELY
from components.core.imaging.png_chunks import check
from components.core.imaging.tiff_deflate import DeflatedPieces

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "PPM", "WEBP")
MAKER_TAG, MODEL_TAG = 0x010F, 0x0110  # EXIF 2.3, table 4: Make, Model
EXIF_FORMATS = ("JPEG", "PNG")
PLAIN, PILLOWS = (b"IHDR", b"IDAT", b"IEND"), (b"eXIf", b"tRNS", b"PLTE")
RAW_PROFILE = b"Raw profile"  # how a text chunk with EXIF begins


@dataclass(frozen=True)
class Picture:
    """One picture.

    Args:
        pixels: (H, W), or (H, W, 3) RGB, as stored: no rotation, no colour profile.
        maker, model: Of the camera, as EXIF says it; "" where it does not. For vocabularies and keyed hashes only.
    """

    pixels: NDArray[Any]
    maker: str
    model: str


def decode_picture(handle: BinaryIO, *, most_pixels: int, formats: tuple[str, ...] = FORMATS, most_expansion: float | None = None) -> Picture:
    """Decode one file; its size is checked before its pixels are decoded.

    Args:
        most_expansion: How many times its own length a file may unpack to beyond 8 MiB; None: any number of times.

    Raises:
        NotUsable: Not one of `formats`, damaged, or over a limit.
    """
    from PIL import Image

    length = handle.seek(0, io.SEEK_END)
    handle.seek(0)

    Image.MAX_IMAGE_PIXELS = None  # our own limit is checked below, with a reason
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(handle, formats=formats) as image:
                if image.width * image.height > most_pixels:
                    raise NotUsable("image over limits.pixels_per_image")
                if most_expansion is not None and 3 * image.width * image.height > max(UNPACKED_FREELY, most_expansion * length):
                    raise NotUsable("pixels that unpack to more than is believable")
                if image.format == "PNG":
                    check(handle)
                if image.format == "TIFF":
                    here = handle.tell()
                    DeflatedPieces(handle).check(image.width, image.height)
                    handle.seek(here)
                if (pixels := _plain_png(image, handle)) is not None:
                    return Picture(pixels, "", "")
                image.load()  # before EXIF: reading that of a PNG loads it too, and what then fails looks loaded afterwards, its missing rows black
                maker, model = _camera(image)
                if image.mode in ("I;16", "I;16B", "I", "F"):
                    return Picture(np.asarray(image), maker, model)
                return Picture(np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")), maker, model)
        except NotUsable:
            raise
        except (OSError, ValueError, SyntaxError, EOFError, IndexError, KeyError, TypeError, OverflowError, zlib.error, Image.DecompressionBombError):
            raise NotUsable("not an image, or a damaged one") from None


def _plain_png(image: Any, handle: BinaryIO) -> NDArray[np.uint8] | None:
    """The pixels of a PNG of 8-bit grey or RGB without EXIF, by a decoder that takes 60 % of Pillow's time; None for all others, and damaged ones."""
    if image.format != "PNG" or image.mode not in ("L", "RGB"):
        return None
    import imagecodecs

    here = handle.tell()
    handle.seek(0)
    plain = _critical_chunks(handle.read())
    handle.seek(here)  # where Pillow reads on
    if plain is None:
        return None
    try:
        pixels = imagecodecs.png_decode(plain)
    except (imagecodecs.PngError, ValueError):
        return None  # Pillow says what is wrong, or reads it all the same
    wanted = (image.height, image.width, 3)[: 3 if image.mode == "RGB" else 2]
    return pixels if pixels.dtype == np.uint8 and pixels.shape == wanted else None


def _critical_chunks(data: bytes) -> bytes | None:
    """A PNG without the chunks that say nothing of its pixels: the decoder prints warnings about them that may quote the file.

    None where EXIF, transparency, a palette, interlacing, another depth or damage need Pillow.
    """
    kept, at = [data[:8]], 8  # PNG (ISO/IEC 15948) 5.2 and 5.3: the signature, then length, type, data and CRC of each chunk
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if end > len(data) or kind in PILLOWS or data[at + 8 : at + 8 + len(RAW_PROFILE)] == RAW_PROFILE:
            return None
        if kind in PLAIN:
            if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
                return None
            kept.append(data[at:end])
        elif kind[:1].isupper():  # critical, and unknown
            return None
        if kind == b"IEND":
            head = kept[1]
            return b"".join(kept) if head[4:8] == b"IHDR" and head[16] == 8 and head[17] in (0, 2) and head[18:21] == b"\0\0\0" else None
        at = end
    return None


def _camera(image: Any) -> tuple[str, str]:
    """Maker and model; EXIF that cannot be read costs the names and not the picture."""
    if image.format not in EXIF_FORMATS:
        return "", ""
    try:
        exif = image.getexif()
        found = [exif.get(tag) for tag in (MAKER_TAG, MODEL_TAG)]
    except Exception:  # EXIF is other people's TIFF: its parser may raise anything
        return "", ""
    maker, model = (value.strip(" \0")[:64] if isinstance(value, str) else "" for value in found)
    return maker, model
