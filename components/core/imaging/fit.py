"""Bring an image that is no DICOM object to the spec's shape, by one rule for all readers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.errors import NotUsable
from components.core.spec import Input

SMALLEST = 0.25  # of a side of the spec's: enlarged further, one pixel would stand for sixteen, and thumbnails would be judged
LONGEST = 3.0  # sides beside each other, of the image over the spec's: stretched further, nothing has its shape (a strip, a page of several images)
NEAR = 0.1  # share by which a side may differ and still only be cropped or padded


def fit(image: NDArray[Any], spec_input: Input) -> NDArray[Any]:
    """(H, W) or (H, W, 3) -> `spec_input.shape` in `spec_input.dtype`.

    A side within 10 % of the spec's is cropped, or padded with its own edge, evenly on both sides: such a patch was cut at the border of
    its scan, and stretching it would change the size of what it shows. Otherwise the image is resized (bilinear with anti-aliasing).
    One channel out of three is the luma of ITU-R BT.601; three out of one is the same three times.

    Raises:
        NotUsable: Values that do not fit the dtype, another number of channels, an image that is too small or of too long a side.
    """
    channels, height, width = spec_input.shape
    if image.ndim == 2:
        image = image[..., None]
    if image.ndim != 3 or image.shape[2] not in (1, 3) or channels not in (1, 3) or 0 in image.shape:
        raise NotUsable("neither one nor three channels")
    rows, columns = image.shape[0] / height, image.shape[1] / width
    if min(rows, columns) < SMALLEST:
        raise NotUsable("smaller than a quarter of input.shape along a side")
    if max(rows / columns, columns / rows) > LONGEST:
        raise NotUsable("over three times as long a side as input.shape has")
    if image.shape[2] != channels:
        image = _grey(image) if channels == 1 else np.repeat(image, 3, axis=2)
    if image.shape[:2] != (height, width):
        near = abs(image.shape[0] / height - 1) <= NEAR and abs(image.shape[1] / width - 1) <= NEAR
        image = _padded(_cropped(image, height, width), height, width) if near else _resized(image, height, width)
    return _typed(np.moveaxis(image, 2, 0), np.dtype(spec_input.dtype))


def _grey(image: NDArray[Any]) -> NDArray[Any]:
    grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return (np.rint(grey).astype(image.dtype) if image.dtype.kind in "iu" else grey)[..., None]


def _cropped(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    top, left = max(0, image.shape[0] - height) // 2, max(0, image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def _padded(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    missing = (height - image.shape[0], width - image.shape[1])
    return np.pad(image, [(m // 2, m - m // 2) for m in missing] + [(0, 0)], mode="edge")


def _resized(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    from PIL import Image

    planes = [Image.fromarray(image[..., c].astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR) for c in range(image.shape[2])]
    out = np.stack([np.asarray(plane) for plane in planes], axis=2)
    return np.rint(out).astype(image.dtype) if image.dtype.kind in "iu" else out


def _typed(image: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.itemsize == 1 and image.dtype == np.uint16:  # a dark one would pass for one of 8 bits
        raise NotUsable("16 bits a value where the spec has 8")
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if image.dtype.kind == "f" or (image.size and (image.min() < limits.min or image.max() > limits.max)):
            raise NotUsable("values outside the spec's dtype")
    elif not np.isfinite(image).all():
        raise NotUsable("values that are not finite")
    return np.ascontiguousarray(image, dtype=dtype)
