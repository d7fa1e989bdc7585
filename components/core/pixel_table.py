"""Images as rows of a table, one column a pixel: HAM10000's `hmnist_8_8_L.csv` is one. Training and server share it.

Columns `pixel0000`, `pixel0001`, ... hold an image row by row from the upper left corner, colours of a pixel side by side, whole numbers 0 to 255.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.imaging.errors import NotUsable
from components.core.spec import DiseaseSpec
from components.core.text_table import number

PIXEL = re.compile(r"pixel_?(\d{1,9})")


def pixel_columns(header: list[str], spec: DiseaseSpec) -> list[int]:
    """Places of the pixels in a row, in the image's order. Raises DataError when they are not those that `input.shape` says."""
    found = sorted((int(match[1]), place) for place, name in enumerate(header) if (match := PIXEL.fullmatch(name)))
    wanted = int(np.prod(spec.input.shape))
    if len(found) != wanted:
        raise DataError("images of another size", where="columns pixel*", got=len(found), allowed=f"{wanted} = {list(spec.input.shape)}")
    numbers = [number for number, _ in found]
    if numbers != list(range(numbers[0], numbers[0] + wanted)):  # pixel1 and pixel01 are one pixel, and another one is not there
        raise DataError("pixels that are missing or there twice", where="columns pixel*", allowed=f"{wanted} in a row, each of them once")
    return [place for _, place in found]


def image_of(values: list[str], spec: DiseaseSpec) -> NDArray[np.uint8]:
    """The words of one row -> (C, H, W). Raises NotUsable where one is no whole number from 0 to 255."""
    plain = [number(value) for value in values]
    if None in plain:
        raise NotUsable("a pixel that is no number")
    found = np.array(plain, dtype=np.float64)
    if not ((found >= 0) & (found <= 255) & (found == np.floor(found))).all():  # also catches NaN
        raise NotUsable("a pixel that is no whole number from 0 to 255")
    channels, height, width = spec.input.shape
    return np.ascontiguousarray(np.moveaxis(found.astype(np.uint8).reshape(height, width, channels), 2, 0))
