"""Image files whose folders say it all: `<split>/<class>/<file>`, split `train`, `val` or `test` (also in other usual spellings).

A class folder is a class of the spec, compared by letters and digits only: `VeryMildDemented` is `very-mild-demented`. Nothing in such a
tree names persons or devices, so only `grouping = "none"` fits. Without a folder for validation, train gives it
val / (train + val) of its images: those whose pixels hash lowest, so that the same image is always on the same side, however it is named.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError, SpecError
from components.core.imaging.errors import NotUsable
from components.core.imaging.fit import fit
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected, pieces
from components.ingest.readers.image_csv import SPLIT_NAMES, load_picture

CHUNK = 256
SIDE_FILES = {"phantom.json", ".ds_store", "thumbs.db", "desktop.ini", ".dxflow.json", "readme.md", "readme.txt", "license", "license.txt"}


def read(job: Job) -> None:
    """Read the images in pieces on all cores."""
    spec, items = job.context.spec, job.context.source.items
    if spec.input.layout != "image":
        raise SpecError("reader 'image-folders' gives images", where="input.layout", got=spec.input.layout, allowed="image")
    if spec.split.grouping != "none" or spec.target.kind in ("multilabel", "dense"):
        got = f"grouping '{spec.split.grouping}', target '{spec.target.kind}'"
        raise SpecError("folders name neither groups nor several labels", where="split.grouping", got=got, allowed="'none', one class per image")
    files = [n for n, item in enumerate(items) if posixpath.basename(item.path).lower() not in SIDE_FILES]
    found = {split for n in files if (split := _split(items[n].path)) is not None}
    if missing := [name for name in ("train", "test") if name not in found]:
        raise DataError("no folder for a split", where="--source", got=f"no '{missing[0]}'", allowed="train/<class>/..., test/<class>/...")
    take_val = "val" not in found
    job.rows = job.announced = len(files)
    tasks = (Task(f"images-{piece[0]:09d}", (piece, take_val)) for piece in pieces(files, CHUNK))
    job.stage("images", read_images, tasks, total=len(files), size=lambda t: len(t.payload[0]), file=lambda t: t.payload[0][0],
              units=lambda t: [(number, None) for number in t.payload[0]])  # fmt: skip


def _split(path: str) -> str | None:
    """The split that the folder above the class folder names."""
    parts = path.split("/")
    return SPLIT_NAMES.get(parts[-3].lower()) if len(parts) >= 3 else None


def _label(path: str, spec: DiseaseSpec) -> int:
    classes = {_letters(name): k for k, name in enumerate(spec.target.classes)}
    parts = path.split("/")
    label = classes.get(_letters(parts[-2])) if len(parts) >= 2 else None
    if label is None:
        raise NotUsable("a label outside the spec's classes")
    return label


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text).lower()


def read_images(context: Context, task: Task) -> Outcome:
    """The images of one piece."""
    numbers, take_val = task.payload
    spec, out = context.spec, Outcome()
    with Arrays(context, task, out) as arrays:
        for number in numbers:
            path = context.source.items[number].path
            try:
                split = _split(path)
                if split is None:
                    raise NotUsable("no split, which the spec takes as given")
                label = _label(path, spec)
                image = load_picture(context, number, out).pixels
                array = fit(image, spec.input)
                if take_val and split == "train" and _drawn(array, spec):
                    split = "val"
                arrays.add(_row(context, path, label, split, image), array)
            except NotUsable as reason:
                out.rejected.append(Rejected(number, reason.reason, reason.offset))
            except OSError:
                out.rejected.append(Rejected(number, "unreadable file"))
    return out


def _drawn(array: NDArray[Any], spec: DiseaseSpec) -> bool:
    """Does this training image go to validation? Decided by its own pixels, the same in every run."""
    share = spec.split.val / (spec.split.train + spec.split.val)
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _row(context: Context, path: str, label: int, split: str, image: NDArray[Any]) -> dict[str, Any]:
    sample = context.pseudonymiser.id("sample", path)
    return {
        "sample_id": sample,
        "group_id": sample,
        "series_id": sample,
        "device_key": UNKNOWN_DEVICE,
        "software": "",
        "acq_rows": image.shape[0],
        "acq_columns": image.shape[1],
        "label": label,
        "given_split": split,
        "synthetic": False,
    }
