"""`.npz` archives in the MedMNIST layout: `train_images` (n, H, W) or (n, H, W, 3), `train_labels` (n,), (n, 1) or (n, classes), and so for
`val` and `test`. There are no groups, so the spec must take the split as given.

Arrays are streamed out of the archive, never held whole, and never unpickled. Every member that is read is read to its end, where its CRC-32 is
asked for; the others must at least bear the name that the archive's directory gives them, or a split would be missing without a word.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import SPLITS
from components.core.errors import SpecError
from components.core.imaging.errors import NotUsable
from components.core.imaging.fit import fit
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected

BATCH_BYTES = 16 << 20
LABEL_BYTES = 1 << 30


def read(job: Job) -> None:
    """One task for each array of images."""
    spec, source = job.context.spec, job.context.source
    if spec.input.layout != "image" or spec.split.grouping != "none":
        raise SpecError("reader 'npz' gives images without groups", where="split.grouping", got=spec.split.grouping, allowed="none, layout image")
    tasks = [Task(f"npz-{n:06d}-{split}", (n, split)) for n, item in enumerate(source.items) for split in SPLITS if item.size >= 0]
    job.stage("arrays", read_split, tasks, total=len(tasks), size=lambda _: 1, file=lambda t: t.payload[0])


def read_split(context: Context, task: Task) -> Outcome:
    """All samples of one split of one archive."""
    number, split = task.payload
    out = Outcome()
    try:
        with context.source.open(number) as handle, Arrays(context, task, out) as arrays:
            _read(context, handle, number, split, arrays)
    except NotUsable as reason:
        out.samples.clear()  # half an array is not a split
        out.rejected.append(Rejected(number, reason.reason, reason.offset, reason.skipped))
    except OSError:
        out.samples.clear()
        out.rejected.append(Rejected(number, "unreadable file"))
    return out


def _read(context: Context, handle: IO[bytes], number: int, split: str, arrays: Arrays) -> None:
    spec = context.spec
    try:
        with zipfile.ZipFile(handle) as archive:
            names = archive.namelist()
            for name in names:
                archive.open(name).close()  # compares the two names
            if f"{split}_images.npy" not in names:
                raise NotUsable(f"no {split}_images in it", skipped=split != "train")
            if f"{split}_labels.npy" not in names:
                raise NotUsable(f"no {split}_labels in it")
            with archive.open(f"{split}_labels.npy") as member:
                labels = np.concatenate(list(_batches(member, LABEL_BYTES)))
            with archive.open(f"{split}_images.npy") as member:
                place = 0
                for images in _batches(member, int(spec.limits.pixels_per_image) * 8):
                    for image in images:
                        if place >= len(labels):
                            raise NotUsable("images and labels differ in number")
                        arrays.add(_row(context, number, split, place, labels[place], image), fit(image, spec.input))
                        place += 1
            if place != len(labels):
                raise NotUsable("images and labels differ in number")
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError):
        raise NotUsable("not an .npz archive, or a damaged one") from None


def _batches(member: IO[bytes], most: int) -> Iterator[NDArray[Any]]:
    """An .npy member in pieces of about 16 MB along its first axis.

    Args:
        most: Bytes that one entry of the first axis may take.
    """
    try:
        version = np.lib.format.read_magic(member)
        if version not in ((1, 0), (2, 0)):
            raise ValueError
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(member)
    except (ValueError, TypeError, SyntaxError, TokenError, RecursionError):  # NumPy hands the header to Python's own parser
        raise NotUsable("an array with a damaged header") from None
    if dtype.hasobject or dtype.kind not in "uifb" or fortran or not shape:
        raise NotUsable("an array of objects, of text, or not in C order")
    width = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    if not 0 < width <= most:
        raise NotUsable("image over limits.pixels_per_image")
    left, batch = shape[0], max(1, BATCH_BYTES // width)
    while left:
        n = min(left, batch)
        buffer = io.BytesIO()
        while buffer.tell() < n * width:
            block = member.read(min(1 << 20, n * width - buffer.tell()))
            if not block:
                raise NotUsable("an array that ends early")
            buffer.write(block)
        yield np.frombuffer(buffer.getbuffer(), dtype=dtype).reshape(n, *shape[1:])
        left -= n
    if member.read(1):  # at its end the archive's CRC-32 is checked
        raise NotUsable("an array of more bytes than its header says")


def _row(context: Context, number: int, split: str, place: int, label: NDArray[Any], image: NDArray[Any]) -> dict[str, Any]:
    sample = context.pseudonymiser.id("sample", context.source.items[number].path, split, str(place))
    return {
        "sample_id": sample,
        "group_id": sample,
        "patient_id": sample,
        "series_id": sample,
        "device_key": UNKNOWN_DEVICE,
        "software": "",
        "acq_rows": image.shape[0],
        "acq_columns": image.shape[1] if image.ndim > 1 else None,
        "given_split": split,
        "synthetic": False,
        **_label(context.spec, np.atleast_1d(label)),
    }


def _label(spec: DiseaseSpec, label: NDArray[Any]) -> dict[str, Any]:
    if spec.target.kind == "multilabel":
        if len(label) != len(spec.target.classes) or not np.isin(label, (0, 1)).all():
            raise NotUsable("a label outside the spec's classes")
        return {"labels": [float(value) for value in label]}
    if len(label) != 1 or not 0 <= label[0] < len(spec.target.classes) or label[0] != int(label[0]):
        raise NotUsable("a label outside the spec's classes")
    return {"label": int(label[0])}
