"""Whole slides through OpenSlide: a pyramid of resolutions, of which only the tiles that are asked for are ever decoded."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.imaging.tiff_deflate import DeflatedPieces

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif")
AS_IT_IS = 0.05  # a level whose pixel differs from the wanted one by less is not resampled
MPP_LIMITS = (0.05, 20.0)  # microns; outside, the resolution tags were never set (72 dpi are 353 microns)
WHOLE_PIXELS = 1 << 28  # of a slide of one level: to find tissue all of it is decoded
STORED_TILE_PIXELS = 1 << 24  # OpenSlide decodes a stored tile whole: 64 MB at most
CACHE_BYTES = 64 << 20
BLOCK = 2048
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Level:
    """One resolution of the pyramid: its number, how many level-0 pixels one of its pixels is, its size, its pixel in microns."""

    number: int
    downsample: float
    width: int
    height: int
    mpp: float


class Slide:
    """An open slide. All positions are level-0 pixels, x to the right and y down."""

    def __init__(self, handle: Any, mpp: float, sums: DeflatedPieces | None = None) -> None:
        self._handle, self.mpp, self._sums = handle, mpp, sums
        self.properties: dict[str, str] = dict(handle.properties)
        self.levels = [
            Level(n, float(down), int(size[0]), int(size[1]), mpp * float(down))
            for n, (down, size) in enumerate(zip(handle.level_downsamples, handle.level_dimensions, strict=True))
        ]
        self.width, self.height = self.levels[0].width, self.levels[0].height

    def level_for(self, mpp: float) -> tuple[Level, float]:
        """The coarsest level that is at least as fine as `mpp` (microns), and the factor by which it still has to shrink (1: not at all).

        Raises:
            NotUsable: The slide was scanned coarser than that; enlarging it would invent detail.
        """
        fine = [level for level in self.levels if level.mpp <= mpp * (1 + AS_IT_IS)]
        if not fine:
            raise NotUsable("scanned coarser than input.microns_per_pixel")
        level = max(fine, key=lambda one: one.mpp)
        factor = mpp / level.mpp
        return level, 1.0 if abs(factor - 1) <= AS_IT_IS else factor

    def read(self, x: float, y: float, level: Level, width: int, height: int) -> Any:
        """An RGB image (PIL) of `width` x `height` pixels of `level`, its upper left corner at level-0 (x, y); white where nothing was scanned.

        Raises:
            NotUsable: A tile of the file cannot be decoded.
        """
        return _on_white(self._region(x, y, level, width, height))

    def _region(self, x: float, y: float, level: Level, width: int, height: int) -> Any:
        """As `read`, in RGBA: transparent where nothing was scanned."""
        from openslide import OpenSlideError

        if self._sums is not None:
            self._sums.check(level.width, level.height, x / level.downsample, y / level.downsample, width, height)
        try:
            return self._handle.read_region((round(x), round(y)), level.number, (width, height))
        except (OpenSlideError, OSError, ValueError):
            raise NotUsable("a slide with tiles that cannot be decoded") from None

    def tile(self, x: float, y: float, level: Level, factor: float, side: int) -> Bytes:
        """(side, side, 3): the square at level-0 (x, y) that is `side * factor` pixels of `level` wide, averaged down where factor > 1."""
        if factor == 1.0:
            region = self._region(x, y, level, side, side)
            values = np.asarray(region)
            # A view: PIL's own conversion to RGB costs a tenth of the tile's decoding.
            return values[..., :3] if values[..., 3].min() == 255 else np.asarray(_on_white(region))
        from PIL import Image

        wide = max(side, round(side * factor))
        return np.asarray(self.read(x, y, level, wide, wide).resize((side, side), Image.Resampling.BOX))

    def thumbnail(self, mpp: float) -> Bytes:
        """(H, W, 3): the whole slide at `mpp` microns a pixel, read block by block, so that memory does not depend on the pyramid."""
        from PIL import Image

        fine = [level for level in self.levels if level.mpp <= mpp * (1 + AS_IT_IS)] or self.levels[:1]
        level = max(fine, key=lambda one: one.mpp)
        step = mpp / self.mpp  # level-0 pixels of one pixel of the result
        out = np.full((math.ceil(self.height / step), math.ceil(self.width / step), 3), 255, dtype=np.uint8)
        block = max(1, int(BLOCK * level.mpp / mpp))
        for row in range(0, out.shape[0], block):
            for column in range(0, out.shape[1], block):
                rows, columns = min(block, out.shape[0] - row), min(block, out.shape[1] - column)
                size = (max(1, round(columns * mpp / level.mpp)), max(1, round(rows * mpp / level.mpp)))
                region = self.read(column * step, row * step, level, *size)
                out[row : row + rows, column : column + columns] = np.asarray(region.resize((columns, rows), Image.Resampling.BOX))
        return out


def _on_white(region: Any) -> Any:
    """RGBA (PIL) -> RGB (PIL)."""
    from PIL import Image

    alpha = region.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return region.convert("RGB")
    white = Image.new("RGB", region.size, (255, 255, 255))
    white.paste(region.convert("RGB"), mask=alpha)
    return white


@contextmanager
def open_slide(path: str | os.PathLike[str], *, pixels: int, told_mpp: float | None = None) -> Iterator[Slide]:
    """Open a slide; nothing of its pixels is decoded yet.

    Args:
        pixels: Most pixels of level 0 that are allowed.
        told_mpp: As in `mpp_of`.

    Raises:
        NotUsable: Not a slide, cut, large and without a pyramid, without a resolution, too large, or laid out so that one tile takes all memory.
    """
    import openslide

    try:
        handle = openslide.OpenSlide(os.fspath(path))
    except (openslide.OpenSlideError, OSError, ValueError):
        raise NotUsable("not a slide that OpenSlide reads, or a damaged one") from None
    try:
        handle.set_cache(openslide.OpenSlideCache(CACHE_BYTES))
        width, height = handle.dimensions
        if width * height > pixels:
            raise NotUsable("slide over limits.pixels_per_image")
        check_levels(handle.level_count, width * height)
        for n in range(handle.level_count):
            stored = [_number(handle.properties.get(f"openslide.level[{n}].tile-{side}")) for side in ("width", "height")]
            if stored[0] is None or stored[1] is None:
                continue
            if stored[0] * stored[1] > STORED_TILE_PIXELS:
                raise NotUsable("a slide whose stored tiles are over 16 million pixels")
        with open(path, "rb") as file:
            yield Slide(handle, mpp_of(handle.properties, told_mpp), DeflatedPieces(file))
    finally:
        handle.close()


def check_levels(levels: int, pixels: int) -> None:
    """Raises NotUsable for a slide of one level that is too large to be looked at whole."""
    if levels < 2 and pixels > WHOLE_PIXELS:
        raise NotUsable("a large slide without a pyramid")


def mpp_of(properties: Any, told: float | None = None) -> float:
    """Microns of a level-0 pixel.

    Args:
        told: What a table or a request says beside the slide; it stands in where the slide does not say it.

    Raises:
        NotUsable: Nobody says a believable one, for nothing is guessed; or the two contradict each other.
    """
    if told is not None and not MPP_LIMITS[0] <= told <= MPP_LIMITS[1]:
        raise NotUsable(f"a resolution beyond {MPP_LIMITS[0]:g} to {MPP_LIMITS[1]:g} microns a pixel")
    x, y = (_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy")
    if x is None or y is None or not all(MPP_LIMITS[0] <= v <= MPP_LIMITS[1] for v in (x, y)):
        if told is None:
            raise NotUsable("no resolution")
        return told
    if abs(x / y - 1) > AS_IT_IS:
        raise NotUsable("pixels that are not square")
    own = math.sqrt(x * y)
    if told is not None and abs(told / own - 1) > AS_IT_IS:
        raise NotUsable("a resolution that the slide contradicts")
    return own


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
