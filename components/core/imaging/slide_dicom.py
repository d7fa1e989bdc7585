"""A whole slide as DICOM: the files of one series, each a level of the pyramid (or its label, or an overview), read without OpenSlide.

OpenSlide 4.0.1 reads them too, but a damaged tile ends the process. Here tiles go through the decoder that every other DICOM image goes through.

Source:
    DICOM PS3.3 A.32.8 (VL Whole Slide Microscopy), C.8.12.4 (its pixel matrix), C.7.6.17.3 (TILED_FULL: tiles row by row from the upper left corner).
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.deidentify import SCANNER
from components.core.imaging.errors import NotUsable
from components.core.imaging.fields import Fields, parse, quiet
from components.core.imaging.fragments import ITEM
from components.core.imaging.header import ImageHeader, read_header
from components.core.imaging.inflate import UNPACKED_FREELY
from components.core.imaging.pixels import decoded_frame
from components.core.imaging.slides import CACHE_BYTES, STORED_TILE_PIXELS, Slide, check_levels, mpp_of
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec

WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
WIDTH, HEIGHT, OPTICAL_PATHS, FOCAL_PLANES, ORGANIZATION = 0x00480006, 0x00480007, 0x00480302, 0x00480303, 0x00209311
MOST_FILES, MOST_TILES = 64, 1 << 20  # levels with labels and overviews; stored tiles of one level
ALIKE = 0.02  # share by which a level's two downsamples may differ
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class DicomSlide:
    """An open slide, the de-identified header of its finest level, and how many bytes all files have."""

    slide: Slide
    header: ImageHeader
    size: int


@dataclass(frozen=True)
class _Level:
    handle: BinaryIO
    image: ImageHeader
    width: int
    height: int
    places: NDArray[np.int64]
    """(tiles, 2): first byte and length."""

    @property
    def across(self) -> int:
        return -(-self.width // self.image.columns)

    def tile(self, row: int, column: int) -> Bytes:
        """(rows, columns, 3) RGB. Raises NotUsable."""
        start, length = self.places[row * self.across + column].tolist()
        self.handle.seek(start)
        data = self.handle.read(length)
        if self.image.encapsulated:
            return decoded_frame(data, self.image)
        return np.frombuffer(data, np.uint8).reshape(self.image.rows, self.image.columns, 3)


class _Pyramid:
    """What `Slide` asks of OpenSlide's handle, over levels from fine to coarse."""

    def __init__(self, levels: list[_Level]) -> None:
        self._levels = levels
        self._cache: OrderedDict[tuple[int, int, int], Bytes] = OrderedDict()
        base = levels[0]
        rows_mm, columns_mm = base.image.pixel_mm or (0.0, 0.0)  # 0 is no resolution
        self.properties = {"openslide.mpp-y": repr(1000 * rows_mm), "openslide.mpp-x": repr(1000 * columns_mm)}
        self.level_dimensions = [(one.width, one.height) for one in levels]
        self.level_downsamples = [base.width / one.width for one in levels]
        self._kept = max(1, CACHE_BYTES // max(3 * one.image.rows * one.image.columns for one in levels))

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Any:
        from PIL import Image

        one, down = self._levels[level], self.level_downsamples[level]
        left, top = (round(v / down) for v in location)
        width, height = size
        out = np.zeros((height, width, 4), np.uint8)
        high, wide = one.image.rows, one.image.columns
        bottom, right = min(top + height, one.height), min(left + width, one.width)
        for row in range(max(top, 0) // high, -(-max(bottom, 0) // high)):
            for column in range(max(left, 0) // wide, -(-max(right, 0) // wide)):
                y, x = max(row * high, top, 0), max(column * wide, left, 0)
                until_y, until_x = min((row + 1) * high, bottom), min((column + 1) * wide, right)
                if y < until_y and x < until_x:
                    found = self._tile(level, row, column)[y - row * high : until_y - row * high, x - column * wide : until_x - column * wide]
                    out[y - top : until_y - top, x - left : until_x - left, :3] = found
                    out[y - top : until_y - top, x - left : until_x - left, 3] = 255
        return Image.fromarray(out)

    def _tile(self, level: int, row: int, column: int) -> Bytes:
        key = level, row, column
        if key not in self._cache:
            self._cache[key] = self._levels[level].tile(row, column)
            if len(self._cache) > self._kept:
                self._cache.popitem(last=False)
        self._cache.move_to_end(key)
        return self._cache[key]


@contextmanager
def open_dicom_slide(
    folder: Path, *, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, pixels: int, most_expansion: float, told_mpp: float | None = None
) -> Iterator[DicomSlide]:
    """Open a series; no tile is decoded yet.

    Args:
        folder: Holds the files and nothing else.
        pixels: Most pixels of level 0 that are allowed.
        most_expansion: As in `read_dicom`, for each file.
        told_mpp: As in `mpp_of`.

    Raises:
        NotUsable: Files of another kind or of several series, no coloured tiles that cover the slide, over the limits, or damaged.
    """
    limits = spec.limits.model_copy(
        update={"slices_per_series": MOST_TILES, "pixels_per_image": min(spec.limits.pixels_per_image, STORED_TILE_PIXELS)}
    )
    spec = spec.model_copy(update={"limits": limits, "device": spec.device.model_copy(update={"key": SCANNER})})
    with ExitStack() as stack:
        levels: list[_Level] = []
        seen: set[tuple[str, str, str | None]] = set()
        size = 0
        files = sorted(p for p in folder.iterdir() if p.is_file())
        if len(files) > MOST_FILES:
            raise NotUsable("more files than a slide has")
        for file in files:
            own = file.stat().st_size
            handle = stack.enter_context(open(file, "rb"))
            image, level = _level(handle, own, spec, pseudonymiser, pixels)
            if image.rows * image.columns * len(image.frames) * image.samples > max(UNPACKED_FREELY, most_expansion * own):
                raise NotUsable("pixels that unpack to more than is believable")
            seen.add((image.study, image.series, image.patient))
            levels += [level] if level is not None else []
            size += own
        if len(seen) > 1:
            raise NotUsable("images of several series")
        if not levels:
            raise NotUsable("no level of a slide")
        levels.sort(key=lambda one: -one.width)
        base = levels[0]
        check_levels(len(levels), base.width * base.height)
        if any(abs(base.width / one.width / (base.height / one.height) - 1) > ALIKE for one in levels):
            raise NotUsable("levels that do not fit together")
        pyramid = _Pyramid(levels)
        yield DicomSlide(Slide(pyramid, mpp_of(pyramid.properties, told_mpp)), base.image, size)


def _level(handle: BinaryIO, size: int, spec: DiseaseSpec, pseudonymiser: Pseudonymiser, pixels: int) -> tuple[ImageHeader, _Level | None]:
    """A file's header, and what it is of the pyramid: None for a label or an overview."""
    image = read_header(handle, size=size, spec=spec, pseudonymiser=pseudonymiser)
    handle.seek(0)
    with quiet():
        fields = Fields(parse(handle, size, spec)[0])
    if fields.code(0x00080016) != WHOLE_SLIDE:
        raise NotUsable("another kind of object than a whole slide")
    if fields.code(0x00080008, 2) != "VOLUME":
        return image, None
    if any((_long(fields, tag) or 1) > 1 for tag in (OPTICAL_PATHS, FOCAL_PLANES)):
        raise NotUsable("several focal planes or optical paths")
    width, height = _long(fields, WIDTH), _long(fields, HEIGHT)
    if width * height > pixels:
        raise NotUsable("slide over limits.pixels_per_image")
    tiles = -(-width // image.columns) * -(-height // image.rows)
    if fields.code(ORGANIZATION) != "TILED_FULL" or tiles != len(image.frames) or not tiles:
        raise NotUsable("tiles that do not cover the slide in order")
    if image.samples != 3 or image.bits_allocated != 8 or image.deflated or image.swapped:
        raise NotUsable("tiles that are not in colours of 8 bits")
    if not image.encapsulated and (image.photometric != "RGB" or image.planar):
        raise NotUsable("unpacked tiles that are not RGB, colour by pixel")
    return image, _Level(handle, image, width, height, _places(handle, image, tiles))


def _long(fields: Fields, tag: int) -> int:
    """An UL or US element, 0 where it is absent."""
    data = fields.raw(tag)
    return int.from_bytes(data[:4], "little" if fields.parsed.little else "big") if len(data) in (2, 4) else 0


def _places(handle: BinaryIO, image: ImageHeader, tiles: int) -> NDArray[np.int64]:
    """Where each tile lies; `read_header` has made sure that all of it lies in the file."""
    if not image.encapsulated:
        length = image.rows * image.columns * 3
        return np.stack([image.pixels_at + length * np.arange(tiles), np.full(tiles, length)], axis=1)
    found = np.zeros((tiles + 1, 2), dtype=np.int64)  # the first item is the table of offsets
    here, count = image.pixels_at, 0
    while True:
        handle.seek(here)
        group, element, length = struct.unpack("<HHL", handle.read(8).ljust(8, b"\0"))
        if (group, element) != ITEM:
            break
        if count > tiles:
            raise NotUsable("tiles in several fragments")
        found[count] = here + 8, length
        here, count = here + 8 + length, count + 1
    if count != tiles + 1:
        raise NotUsable("fewer tiles than the slide has")
    return found[1:]
