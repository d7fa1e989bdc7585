"""What synthetic photographs have in common: the scaffolding of a collection, smooth fields, a camera's last steps, files that say what they are.

A collection is image files beside a `labels.csv` as reader `image-csv` takes it, and `phantom.json`. Every file carries the word SYNTHETIC
in the place that its format has for it: a JPEG comment, a PNG text.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.atomic import atomic_dir
from components.core.errors import DataError
from components.core.step import Progress

SUMMARY = "phantom.json"
MARK = "SYNTHETIC: made by a dxflow phantom, shows no person"
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Photo:
    """One file on its way into a collection: its path below the collection, its row of `labels.csv` without the path, its bytes."""

    path: str
    row: dict[str, str]
    data: bytes


def collection(folder: Path, request: dict[str, Any], photos: Callable[[int], Iterable[Photo]], *, people: int) -> dict[str, Any]:
    """Write a collection; the folder appears whole or not at all.

    Args:
        folder: Absent, empty, or an earlier phantom: the same one is kept as it is, another is replaced.
        request: What decides the bytes: `phantom`, `version`, `seed`, ...; becomes part of the summary.
        photos: The photographs of person 0, 1, ...; a path `<set>/images/<name>` goes into the table `<set>/labels.csv`.

    Returns:
        The summary, as in phantom.json; `counts` holds `patients`, `files` and one number for each label and device.

    Raises:
        DataError: The folder holds something else.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        made = _summary(folder, request["phantom"])
        if made is None:
            raise DataError("folder holds something else than a phantom", where=str(folder), allowed="a new or empty folder")
        if {key: made.get(key) for key in request} == request:
            return made
    counts: dict[str, int] = {"patients": people, "files": 0}
    tables: dict[str, list[dict[str, str]]] = {}
    progress = Progress("phantom", people)
    with atomic_dir(folder) as partial:
        for person in range(people):
            for photo in photos(person):
                below, _, name = photo.path.rpartition("images/")
                file = partial / photo.path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(photo.data)
                tables.setdefault(below, []).append({"image": f"images/{name}", **photo.row, "synthetic": "1"})
                for key in ("files", *(f"{what}_{photo.row[what]}" for what in ("label", "device"))):
                    counts[key] = counts.get(key, 0) + 1
            progress.advance()
        for below, rows in tables.items():
            with open(partial / below / "labels.csv", "w", newline="", encoding="utf-8") as handle:
                table = csv.DictWriter(handle, list(rows[0]), lineterminator="\n")
                table.writeheader()
                table.writerows(rows)
        summary = request | {"counts": dict(sorted(counts.items()))}
        (partial / SUMMARY).write_text(json.dumps(summary, indent=1, sort_keys=True), encoding="utf-8")
    return summary


def _summary(folder: Path, phantom: str) -> dict[str, Any] | None:
    try:
        made = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return made if isinstance(made, dict) and made.get("phantom") == phantom else None


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
