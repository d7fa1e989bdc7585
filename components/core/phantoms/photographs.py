"""What synthetic photographs have in common: their tables, smooth fields, a camera's last steps, files that say what they are.

A collection is image files beside a `labels.csv` as reader `image-csv` takes it, and `phantom.json`. Every file carries the word SYNTHETIC
in the place that its format has for it: a JPEG comment, a PNG text.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms.collection import collection, totals

MARK = "SYNTHETIC: made by a dxflow phantom, shows no person"
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Photo:
    """One file on its way into a collection: its path below the collection, its row of `labels.csv` without the path, its bytes."""

    path: str
    row: dict[str, str]
    data: bytes


def photographs(folder: Path, request: dict[str, Any], photos: Callable[[int], Iterable[Photo]], *, people: int) -> dict[str, Any]:
    """Write a collection of photographs; the folder appears whole or not at all.

    Args:
        folder: As in `collection`.
        request: As in `collection`.
        photos: The photographs of person 0, 1, ...; a path `<set>/images/<name>` goes into the table `<set>/labels.csv`.
        people: How many persons.

    Returns:
        The summary, as in phantom.json; `counts` holds `patients`, `files` and one number for each label and device.

    Raises:
        DataError: The folder holds something else.
    """

    def make(root: Path, person: int) -> list[tuple[str, dict[str, str]]]:
        rows = []
        for photo in photos(person):
            below, _, name = photo.path.rpartition("images/")
            file = root / photo.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(photo.data)
            rows.append((below, {"image": f"images/{name}", **photo.row, "synthetic": "1"}))
        return rows

    def finish(root: Path, made: list[list[tuple[str, dict[str, str]]]]) -> dict[str, Any]:
        tables: dict[str, list[dict[str, str]]] = {}
        for below, row in (pair for rows in made for pair in rows):
            tables.setdefault(below, []).append(row)
        for below, rows in tables.items():
            with open(root / below / "labels.csv", "w", newline="", encoding="utf-8") as handle:
                table = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
        every = [row for rows in tables.values() for row in rows]
        counts = [{"files": 1, f"label_{row['label']}": 1, f"device_{row['device']}": 1} for row in every]
        return {"counts": totals([{"patients": people, "files": 0}, *counts])}

    return collection(folder, request, make, range(people), finish)


def encoded(rgb: Floats, *, kind: str, quality: int) -> bytes:
    """(H, W, 3) in [0, 1] as a JPEG or PNG file that says that it is synthetic; `quality` is JPEG's."""
    from PIL import Image, PngImagePlugin

    image = Image.fromarray(np.rint(np.clip(rgb, 0, 1) * 255).astype(np.uint8))
    out = io.BytesIO()
    if kind == "JPEG":
        image.save(out, "JPEG", quality=quality, comment=MARK.encode())
    else:
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", MARK)
        image.save(out, "PNG", pnginfo=text)
    return out.getvalue()


def rgb(values: Sequence[float]) -> Floats:
    """(3,) float32: what multiplies a (..., 3) image without making it wider."""
    return np.array(values, dtype=np.float32)


def axes(size: int) -> tuple[Floats, Floats]:
    """x and y of every pixel, (size, size) each, from -1 at the left and upper edge to 1."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
    return np.broadcast_to(line, (size, size)), np.broadcast_to(line[:, None], (size, size))


def resized(image: Floats, size: int) -> Floats:
    """(H, W) or (H, W, C) -> `size` x `size`, bicubic with anti-aliasing."""
    from PIL import Image

    planes = image[..., None] if image.ndim == 2 else image
    side = (size, size)
    out = [np.asarray(Image.fromarray(planes[..., c]).resize(side, Image.Resampling.BICUBIC)) for c in range(planes.shape[2])]
    return out[0] if image.ndim == 2 else np.stack(out, axis=2)


def smooth(rng: np.random.Generator, size: int, cells: int) -> Floats:
    """(size, size) of unit noise whose grain is `size / cells` pixels."""
    return resized(rng.standard_normal((cells, cells), dtype=np.float32), size)


def blurred(image: Floats, sigma: float) -> Floats:
    """Gaussian blur of the plane, `sigma` in pixels."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (sigma, sigma, 0)[: image.ndim], mode="nearest") if sigma > 0 else image


def pick(rng: np.random.Generator, names: Sequence[str], shares: Sequence[float]) -> str:
    """One of `names`, with the given shares."""
    return names[int(np.searchsorted(np.cumsum(shares), rng.random() * sum(shares), side="right"))]
