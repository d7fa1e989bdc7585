"""A picture's values as numbers: grey or RGB of 8 bits, or one deeper grey; transparency on black. What has no such meaning is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.imaging import picture_kinds
from components.core.imaging.errors import NotUsable
from components.core.imaging.picture_kinds import Kind

DEEP = ("I;16", "I;16B", "I;16L", "I", "F")
GREY, COLOUR = ("1", "L", "LA", "La"), ("RGB", "RGBX", "RGBA", "RGBa", "P", "PA", "YCbCr")
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
DEPTH = "16 bits a colour: which 8 of them are meant, the file does not say"


def check_depth(image: Any, kind: Kind, head: bytes) -> None:
    """Before the pixels are decoded: the decoder drops low bits, wraps signs and leaves white-is-zero as it is without a word.

    Raises:
        NotUsable: It would.
    """
    if kind is picture_kinds.PNG:
        depth, colour = head[24], head[25]  # of IHDR, ISO/IEC 15948 11.2.2
        if depth == 16 and colour != 0:
            raise NotUsable(DEPTH)
        if depth != 8 and colour == 0 and "transparency" in image.info:
            raise NotUsable("a transparent level of grey at another depth than 8 bits")
    elif kind is picture_kinds.PPM:
        arguments = image.tile[0].args if image.tile else ()
        if image.mode == "RGB" and isinstance(arguments, tuple) and len(arguments) > 1 and isinstance(arguments[1], int) and arguments[1] > 255:
            raise NotUsable(DEPTH)
    elif kind is picture_kinds.TIFF:
        _check_tiff(image.tag_v2)


def _check_tiff(tags: Any) -> None:
    """TIFF 6.0: BitsPerSample, SampleFormat (1 unsigned, 2 signed, 3 floating point), PhotometricInterpretation (0: white is zero)."""
    bits = {int(n) for n in tags.get(258, (1,))}
    formats = {int(n) for n in tags.get(339, (1,))}
    samples, white_is_zero = int(tags.get(277, 1)), int(tags.get(262, 1)) == 0
    deep = max(bits) > 8
    if deep and samples > 1:
        raise NotUsable(DEPTH)
    if deep and white_is_zero:
        raise NotUsable("a TIFF of over 8 bits whose zero is white")
    if (formats == {2} and not deep) or (formats == {1} and max(bits) > 16) or len(formats) > 1 or not formats <= {1, 2, 3}:
        raise NotUsable("a TIFF of values that are not unsigned 8 or 16, signed 16 or 32, or floating point")


def values(image: Any) -> NDArray[Any]:
    """(H, W), or (H, W, 3) RGB, of a decoded picture (PIL), not yet turned.

    Transparent pixels are laid on black, whatever colour hides under them: the surround of a fundus camera and of a dermatoscope is black, and a
    place that was not imaged has no light.

    Raises:
        NotUsable: Colours of print or of another space, or transparent throughout.
    """
    if image.mode in DEEP:
        if "transparency" in image.info:
            raise NotUsable("a transparent level of grey at another depth than 8 bits")
        return _native(np.asarray(image))
    if image.mode not in (*GREY, *COLOUR):
        raise NotUsable("colours of print or of another space: neither grey nor RGB")
    grey = image.mode in GREY
    if image.mode in TRANSPARENT or "transparency" in image.info:
        return _on_black(np.asarray(image.convert("LA" if grey else "RGBA")))
    wanted = "L" if grey else "RGB"
    return np.asarray(image if image.mode == wanted else image.convert(wanted))


def _native(pixels: NDArray[Any]) -> NDArray[Any]:
    """In this machine's byte order; whole numbers that fit into 16 bits as such."""
    pixels = pixels.astype(pixels.dtype.newbyteorder("="))
    if pixels.dtype == np.int32 and pixels.size and pixels.min() >= 0 and pixels.max() <= 65_535:
        return pixels.astype(np.uint16)
    return pixels


def _on_black(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, n + 1) with opacity last -> (H, W) or (H, W, n)."""
    opacity, colours = pixels[..., -1:], pixels[..., :-1]
    if not opacity.any():
        raise NotUsable("transparent throughout")
    if opacity.min() < 255:
        colours = ((colours.astype(np.uint16) * opacity + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(colours[..., 0] if colours.shape[2] == 1 else colours)
