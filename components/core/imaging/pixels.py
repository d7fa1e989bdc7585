"""Stored pixels: found in the file, decoded one frame at a time, turned into the spec's unit."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.codestreams import announced, check_work, codestream_start
from components.core.imaging.errors import NotUsable
from components.core.imaging.fields import BIG_ENDIAN, quiet
from components.core.imaging.header import ImageHeader
from components.core.imaging.in_memory import stretch
from components.core.imaging.inflate import inflated
from components.core.imaging.palette import PALETTE
from components.core.imaging.patches import AIR_HU

BEHIND_PIXELS = 1 << 20  # bytes of a deflated file's elements after the pixels: it is read to its end
FINE = 1 << 20  # up to here float32 keeps a sixteenth
RLE = "1.2.840.10008.1.2.5"
LARGEST_FRAME = 1 << 23  # pixels; a JPEG of more may have 16 scans
LARGEST_FRAME_SHARE = 4  # an encoded frame longer than this many times its pixels is not one


def stored_frame(handle: BinaryIO, image: ImageHeader, index: int = 0) -> NDArray[Any]:
    """Frame `index` as stored: (rows, columns) integers, or (rows, columns, 3) RGB.

    Bits above `bits_stored`, where old files keep overlays, are taken off; padding that the header writes with such bits keeps them. Palettes are
    applied.

    Raises:
        NotUsable: The pixels cannot be decoded, or are not those that the header describes.
    """
    if image.deflated:
        handle, _ = inflated(handle, image.pixels_at + image.pixels_length + BEHIND_PIXELS)
    if image.photometric == PALETTE:
        if image.palette is None:  # a header that has been in JSON
            raise NotUsable("palette colours")
        return image.palette(_stored(handle, image, index))
    return _stored(handle, image, index)


def _stored(handle: BinaryIO, image: ImageHeader, index: int) -> NDArray[Any]:
    if not image.encapsulated and image.samples == 1:
        return _native(handle, image, index)
    with quiet():
        try:
            return _decoded(handle, image, index)
        except (NotUsable, MemoryError):
            raise
        except Exception as error:  # a codec meeting damaged bytes may raise anything
            raise NotUsable(f"pixels cannot be decoded: {type(error).__name__}", offset=image.pixels_at) from None


def to_unit(stored: NDArray[Any], image: ImageHeader, index: int = 0, *, hu: bool) -> NDArray[np.float32]:
    """Stored values -> HU, or the manufacturer's unit.

    Padding becomes air in HU. MONOCHROME1 says how to show an image, not what it measures: HU stay as they are (PS3.3 C.11.1), while an
    image in display units is turned so that bright is high.
    """
    frame = image.frames[index]
    long = stored.dtype.itemsize > 2 or abs(frame.intercept or 0) > FINE  # a large offset takes off a large value: 32 bits would lose what is left
    values = stored.astype(np.float64 if long else np.float32)
    if frame.slope is not None:
        values *= values.dtype.type(frame.slope)
    if frame.intercept is not None:
        values += values.dtype.type(frame.intercept)
    if hu:
        if image.padding is not None:
            low, high = image.padding
            values[(stored >= low) & (stored <= high)] = AIR_HU
    elif image.photometric == "MONOCHROME1":
        ends = np.array(_stored_range(image), dtype=values.dtype) * values.dtype.type(frame.slope or 1) + values.dtype.type(frame.intercept or 0)
        values = ends.sum() - values
    return values.astype(np.float32, copy=False)


def whole_hu(stored: NDArray[Any], image: ImageHeader, index: int = 0) -> NDArray[np.int16] | None:
    """What `to_unit` gives in HU, as whole numbers of 16 bits: most scanners store HU but for a whole offset, which takes a fifth of the time.

    None where another slope or offset, or values beyond 16 bits, need the long way.
    """
    frame = image.frames[index]
    offset = frame.intercept or 0.0
    if frame.slope not in (None, 1) or not float(offset).is_integer() or stored.dtype.itemsize > 2 or not stored.size:
        return None
    shifted = (int(stored.min()) + int(offset), int(stored.max()) + int(offset))
    if not (shifted[0] >= -32768 and shifted[1] <= 32767 and abs(offset) <= 32768):
        return None
    values = stored.astype(np.int16)  # what does not fit wraps, and wraps back with the offset
    values += np.array(int(offset)).astype(np.int16)
    if image.padding is not None:
        low, high = image.padding
        values[(stored >= low) & (stored <= high)] = AIR_HU
    return values


def _stored_range(image: ImageHeader) -> tuple[int, int]:
    bits = image.bits_stored
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if image.signed else (0, (1 << bits) - 1)


def _native(handle: BinaryIO, image: ImageHeader, index: int) -> NDArray[Any]:
    width = image.bits_allocated // 8
    length = image.rows * image.columns * width
    data = stretch(handle, image.pixels_at + index * length, length)
    if len(data) < length:
        raise NotUsable("truncated: pixels end early", offset=image.pixels_at + index * length + len(data))
    if image.swapped:
        return _stored_bits(_unswapped(handle, image, index * length, length).reshape(image.rows, image.columns), image)
    order = ">" if image.transfer_syntax == BIG_ENDIAN else "<"
    stored = np.frombuffer(data, dtype=f"{order}{'i' if image.signed else 'u'}{width}").reshape(image.rows, image.columns)
    return _stored_bits(stored, image)


def _unswapped(handle: BinaryIO, image: ImageHeader, first: int, length: int) -> NDArray[Any]:
    """Bytes first..first+length of 8-bit pixels that lie in big endian 16-bit words (PS3.5 8.1.1 and 7.3)."""
    even = first - first % 2
    handle.seek(image.pixels_at + even)
    data = handle.read(length + 2)
    words = np.frombuffer(data[: len(data) // 2 * 2], dtype=">u2").astype("<u2").view(np.int8 if image.signed else np.uint8)
    if len(words) < first - even + length:
        raise NotUsable("truncated: pixels end early", offset=image.pixels_at)
    return words[first - even : first - even + length]


def _stored_bits(stored: NDArray[Any], image: ImageHeader) -> NDArray[Any]:
    above = image.bits_allocated - image.high_bit - 1
    below = image.high_bit + 1 - image.bits_stored
    if not 0 <= above < image.bits_allocated or below < 0:
        raise NotUsable("stored bits do not fit into allocated bits")
    if not above and not below:
        return stored
    # Shifting up and back takes the bits above off and extends the sign; for unsigned values zeros come in.
    found = np.right_shift(np.left_shift(stored, above), above + below)
    low, high = _stored_range(image)
    if image.padding is not None and not (low <= image.padding[0] and image.padding[1] <= high):
        # Padding that no stored value can be is written over the bits above too; cut to the stored bits it would be some tissue's value.
        padded = (stored >= image.padding[0]) & (stored <= image.padding[1])
        found[padded] = stored[padded]
    return found


def _decoded(handle: BinaryIO, image: ImageHeader, index: int) -> NDArray[Any]:
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder

    count = len(image.frames)
    options = _options(image)
    if not image.encapsulated:
        handle.seek(image.pixels_at)
        options |= {"number_of_frames": count, "pixel_vr": "OW" if image.swapped or image.bits_allocated > 8 else "OB"}
        array, _ = get_decoder(image.transfer_syntax).as_array(handle, index=index if count > 1 else None, **options)
        return array if image.samples == 3 else _stored_bits(array, image)
    handle.seek(image.pixels_at)
    array = _of_codestream(get_frame(handle, index, number_of_frames=count), image, options)
    return _stored_bits(array, image) if image.transfer_syntax == RLE and image.samples == 1 else array


def decoded_frame(frame: bytes, image: ImageHeader) -> NDArray[Any]:
    """As `stored_frame`, from the bytes of one encapsulated frame."""
    with quiet():
        try:
            return _of_codestream(frame, image, _options(image))
        except (NotUsable, MemoryError):
            raise
        except Exception as error:  # as in `stored_frame`
            raise NotUsable(f"pixels cannot be decoded: {type(error).__name__}", offset=image.pixels_at) from None


def _options(image: ImageHeader) -> dict[str, Any]:
    return {
        "rows": image.rows, "columns": image.columns, "samples_per_pixel": image.samples, "photometric_interpretation": image.photometric,
        "pixel_representation": int(image.signed), "bits_allocated": image.bits_allocated, "bits_stored": image.bits_stored,
        "planar_configuration": image.planar, "pixel_keyword": "PixelData",
    }  # fmt: skip


def _of_codestream(frame: bytes, image: ImageHeader, options: dict[str, Any]) -> NDArray[Any]:
    from pydicom.encaps import encapsulate
    from pydicom.pixels.decoders.base import get_decoder

    if len(frame) > LARGEST_FRAME_SHARE * (image.rows * image.columns * image.samples * image.bits_allocated // 8) + 65_536:
        raise NotUsable("encoded frame longer than its pixels", offset=image.pixels_at)
    if image.transfer_syntax != RLE:
        frame = _checked(frame, image)
    options["number_of_frames"] = 1
    array, _ = get_decoder(image.transfer_syntax).as_array(encapsulate([frame], has_bot=False), **options)
    return array


def _checked(frame: bytes, image: ImageHeader) -> bytes:
    """The codestream alone, after a look at what it announces: decoders allocate what it says, not what the DICOM header says."""
    found = announced(frame)
    if found is None:
        raise NotUsable("no codestream where one should start", offset=image.pixels_at)
    if (found.rows, found.columns) != (image.rows, image.columns):
        raise NotUsable("codestream of another size than its header", offset=image.pixels_at)
    if found.components != image.samples or found.bits > image.bits_allocated:
        raise NotUsable("codestream of other components or bits than its header", offset=image.pixels_at)
    if found.signed and not image.signed:  # the values are below zero, or they are not: the file says both
        raise NotUsable("codestream of signed values under a header of unsigned ones", offset=image.pixels_at)
    check_work(found, most_pixels=max(image.rows * image.columns, LARGEST_FRAME))
    start = codestream_start(frame)
    return frame[start:] if start else frame
