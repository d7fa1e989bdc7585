"""CT series as DICOM files, with radiologists' marks as LIDC-IDRI XML; one sample for each labelled nodule.

Every file is tried, whatever its name. First all headers are read (no pixels), then, series by series, only the slices that samples
lie on are decoded. A slice that no sample touches is checked as far as its header goes: length, structure, position.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from components.core.errors import SpecError
from components.core.imaging.copies import COPY, TWO_IN_ONE, digest, sorted_out
from components.core.imaging.dicom import patch_in_unit
from components.core.imaging.errors import NotUsable
from components.core.imaging.header import ImageHeader, read_header
from components.core.imaging.inflate import MOST_EXPANSION, UNPACKED_FREELY
from components.core.imaging.pixels import stored_frame
from components.ingest import lidc, remarks
from components.ingest.deidentify import word_hashes
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected

CHUNK = 32
GAP = 1.5  # times the usual distance of slices
SAME_MM = 1e-3
SIDE_FILES = {"phantom.json", ".ds_store", "thumbs.db", "desktop.ini", ".dxflow.json"}


def read(job: Job) -> None:
    """Index all files, then read the series that have marks."""
    context = job.context
    if context.spec.input.layout != "image" or context.spec.input.shape[0] != 1 or context.spec.target.kind != "binary":
        raise SpecError("reader 'dicom-lidc' gives one-channel images with a binary label", where="input.layout", got=context.spec.input.layout)
    n = len(context.source.items)
    tasks = (Task(f"index-{first:08d}", (first, min(first + CHUNK, n))) for first in range(0, n, CHUNK))
    job.stage("files", index, tasks, total=n, size=lambda t: t.payload[1] - t.payload[0], file=lambda t: t.payload[0],
              units=lambda t: [(number, None) for number in range(*t.payload)])  # fmt: skip
    series = job.journal.groups("slice")
    marked = set(job.journal.groups("marks"))
    _lost_marks(job, marked - set(series))
    job.journal.record_once("series-counts", Outcome(notes={"series": len(series), "series without marks": len(set(series) - marked)}))
    chosen = [s for s in series if s in marked]
    units = (Task(f"series-{s}", (s, job.journal.found("slice", s), job.journal.found("marks", s))) for s in chosen)
    job.stage("series", read_series, units, total=len(chosen), size=lambda _: 1, file=lambda t: t.payload[1][0][0])


def _lost_marks(job: Job, lost: set[str]) -> None:
    files = [file for s in sorted(lost) for file, _ in job.journal.found("marks", s)]
    job.journal.record_once("lost-marks", Outcome(rejected=[Rejected(f, "marks of a series that is not in the source") for f in files]))


def index(context: Context, task: Task) -> Outcome:
    """Headers and marks of files first..last-1."""
    out = Outcome()
    words: set[str] = set()
    for number in range(*task.payload):
        item = context.source.items[number]
        try:
            if item.size < 0:
                raise NotUsable("not a regular file")
            if item.path.rsplit("/", 1)[-1].lower() in SIDE_FILES:
                out.notes["side files"] = out.notes.get("side files", 0) + 1
                continue
            with context.source.open(number) as handle:
                _index_file(context, number, handle, item.size, words, out)
        except NotUsable as reason:
            out.rejected.append(Rejected(number, reason.reason, reason.offset, reason.skipped))
        except OSError:
            out.rejected.append(Rejected(number, "unreadable file"))
        except MemoryError:
            out.rejected.append(Rejected(number, "needs more memory than there is"))
    out.words = word_hashes(words, context.pseudonymiser)
    people = {(image["patient_word"], image["patient"]): file for kind, _, file, image in out.found if kind == "slice" and image["patient"]}
    out.found += [("person", word, file, patient) for (word, patient), file in people.items()]
    return out


def _index_file(context: Context, number: int, handle: BinaryIO, size: int, words: set[str], out: Outcome) -> None:
    start = handle.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    handle.seek(0)
    if start.startswith((b"<?xml", b"<LidcReadMessage", b"<!--", b"\xff\xfe<", b"\xfe\xff\0<")):
        if size > lidc.XML_BYTES:
            raise NotUsable("XML over 64 MB")
        series, marks, uids = lidc.parse(handle.read(), context.pseudonymiser)
        words |= uids
        out.found.append(("marks", series, number, [mark.to_json() for mark in marks]))
        return
    image = read_header(handle, size=size, spec=context.spec, pseudonymiser=context.pseudonymiser, tokens=words)
    if image.samples != 1:
        raise NotUsable("colour where the spec has one channel")
    if image.rows * image.columns * len(image.frames) * image.bits_allocated // 8 > max(UNPACKED_FREELY, MOST_EXPANSION * size):
        raise NotUsable("pixels that unpack to more than is believable")
    if image.patient is None and context.spec.split.grouping == "patient":
        raise NotUsable("no patient id, which grouping by patient needs")
    out.found.append(("slice", image.series, number, image.to_dict()))
    if image.undated:
        out.notes[remarks.DICOM_DATE] = out.notes.get(remarks.DICOM_DATE, 0) + 1


@dataclass(frozen=True)
class Slice:
    """One plane of a series. `along` is its position along the normal, in mm; `near_gap` says that a neighbour is missing."""

    file: int
    image: ImageHeader
    frame: int
    along: float
    near_gap: bool = False


def read_series(context: Context, task: Task) -> Outcome:
    """One series: order its slices, match the readers' marks, cut one patch for each labelled nodule."""
    out = Outcome()
    _, files, marks = task.payload
    images = [(file, ImageHeader.from_dict(body)) for file, body in files]
    wanted = {o[0] for _, found in marks for _, _, outlines in found for o in outlines}
    try:
        images, marks = _once(context, images, marks, out)
        slices = order(images, wanted, context.spec.limits.slices_per_series, out)
    except NotUsable as reason:
        out.rejected += [Rejected(file, reason.reason) for file, _ in images]
        return out
    except OSError:
        out.rejected += [Rejected(file, "unreadable file") for file, _ in images]
        return out
    if not slices:
        return out
    if len(marks) > 1:  # the collection has one file for each series
        if any(found != marks[0][1] for _, found in marks):
            out.rejected += [Rejected(file, "marks of one series that contradict each other") for file, _ in marks]
            return out
        out.rejected += [Rejected(file, "marks that repeat another file's", skipped=True) for file, _ in marks[1:]]
    place = Places(slices)
    nodules: dict[int, list[tuple[lidc.Nodule, Slice, tuple[float, float]]]] = defaultdict(list)
    known = [mark for mark in map(lidc.Mark.from_json, marks[0][1]) if all(place.slice_of(o) is not None for o in mark.outlines)]
    if lost := len(marks[0][1]) - len(known):
        out.rejected.append(Rejected(marks[0][0], "marks on a slice that is missing"))
        out.notes["marks on missing slices"] = lost
    for nodule in lidc.match(known, place.mm, place.pixel_area_mm2):
        if nodule.label() is None:
            why = "fewer than 3 readers" if nodule.readers < lidc.READERS else "median malignancy between 2 and 4"
            out.notes[f"nodules left out: {why}"] = out.notes.get(f"nodules left out: {why}", 0) + 1
            continue
        touched = [place.slice_of(o) for mark in nodule.marks for o in mark.outlines]
        if any(s is not None and s.near_gap for s in touched):
            out.notes["nodules left out: at a gap"] = out.notes.get("nodules left out: at a gap", 0) + 1
            continue
        middle, centre = place.centre(nodule)
        nodules[slices.index(middle)].append((nodule, middle, centre))
    with Arrays(context, task, out) as arrays:
        for number in sorted(nodules):  # each slice is decoded once, however many nodules lie on it
            here = slices[number]
            try:
                with context.source.open(here.file) as handle:
                    stored = stored_frame(handle, here.image, here.frame)
                for nodule, _, centre in nodules[number]:
                    patch = patch_in_unit(stored, here.image, here.frame, centre_rc=centre, spec=context.spec)
                    arrays.add(_row(context, here, nodule, centre), patch)
            except NotUsable as reason:
                out.rejected.append(Rejected(here.file, reason.reason, reason.offset))
            except OSError:
                out.rejected.append(Rejected(here.file, "unreadable file"))
    return out


def _once(context: Context, images: list[tuple[int, ImageHeader]], marks: list[Any], out: Outcome) -> tuple[list[tuple[int, ImageHeader]], list[Any]]:
    """Images and marks without byte-equal copies, and without images that share a UID and no bytes."""
    copies, contradicting = sorted_out(((file, image.sop) for file, image in images), context.pseudonymiser.id("sop", ""), context.source.open)
    if len(marks) > 1:
        first = digest(marks[0][0], context.source.open)
        copies |= {file for file, _ in marks[1:] if digest(file, context.source.open) == first}
    if copies:
        out.rejected += [Rejected(file, COPY, skipped=True) for file in sorted(copies)]
        out.notes["byte-equal copies"] = len(copies)
    out.rejected += [Rejected(file, TWO_IN_ONE) for file in sorted(contradicting)]
    left_out = copies | contradicting
    return [one for one in images if one[0] not in left_out], [one for one in marks if one[0] not in left_out]


def order(images: list[tuple[int, ImageHeader]], wanted: set[str], most: int, out: Outcome) -> list[Slice]:
    """The planes of one series from foot to head (by position along the normal, never by instance number).

    Planes of another direction than most, repeats and planes without a place are rejected one by one; a gap is reported at the slice
    after it.

    Args:
        wanted: Images that marks name: of repeats these are kept.
    """
    planes: list[tuple[int, ImageHeader, int]] = [(file, image, i) for file, image in images for i in range(len(image.frames))]
    if len(planes) > most:
        raise NotUsable("series over limits.slices_per_series")
    placed = [p for p in planes if p[1].frames[p[2]].position is not None and p[1].frames[p[2]].rows_along is not None]
    _reject(out, planes, placed, "no position or orientation")
    if not placed:
        return []
    normals = [_normal(image, i) for _, image, i in placed]
    rounded = [tuple(round(v, 2) + 0.0 for v in n) for n in normals]
    usual = Counter(rounded).most_common(1)[0][0]
    normal = normals[rounded.index(usual)]
    straight = [p for p, n in zip(placed, normals, strict=True) if sum(a * b for a, b in zip(n, normal, strict=True)) > 0.999]
    _reject(out, placed, straight, "another orientation than its series")
    sizes = Counter((image.rows, image.columns, image.pixel_mm) for _, image, _ in straight).most_common(1)[0][0]
    alike = [p for p in straight if (p[1].rows, p[1].columns, p[1].pixel_mm) == sizes]
    _reject(out, straight, alike, "another size or spacing than its series")
    if sizes[2] is None:
        raise NotUsable("no pixel spacing")
    found = sorted(
        (Slice(file, image, i, _along(image, i, normal)) for file, image, i in alike),
        key=lambda s: (s.along, s.image.sop not in wanted, s.image.instance, s.file, s.frame),
    )
    unique: list[Slice] = []
    for s in found:
        if unique and s.along - unique[-1].along < SAME_MM:
            out.rejected.append(Rejected(s.file, "a second slice at one position"))
        else:
            unique.append(s)
    return _gaps(unique, out)


def _gaps(slices: list[Slice], out: Outcome) -> list[Slice]:
    """Mark the slices beside a gap and report each gap once."""
    steps = np.diff([s.along for s in slices])
    if not len(steps):
        return slices
    wide = steps > GAP * float(np.median(steps))
    for i in np.flatnonzero(wide):
        out.rejected.append(Rejected(slices[i + 1].file, "slices missing before this one"))
    beside = np.r_[wide, False] | np.r_[False, wide]
    return [Slice(s.file, s.image, s.frame, s.along, bool(b)) for s, b in zip(slices, beside, strict=True)]


def _reject(out: Outcome, before: list[Any], after: list[Any], reason: str) -> None:
    kept = {(p[0], p[2]) for p in after}
    out.rejected += [Rejected(file, reason) for file, _, i in before if (file, i) not in kept]


def _normal(image: ImageHeader, i: int) -> tuple[float, float, float]:
    a, b = image.frames[i].rows_along, image.frames[i].columns_along
    assert a is not None
    assert b is not None
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _along(image: ImageHeader, i: int, normal: tuple[float, float, float]) -> float:
    position = image.frames[i].position
    assert position is not None
    return sum(p * n for p, n in zip(position, normal, strict=True))


class Places:
    """Where outlines lie: by the image that they name, and in a multi-frame image by their z."""

    def __init__(self, slices: list[Slice]) -> None:
        self._of: dict[str, list[Slice]] = defaultdict(list)
        for s in slices:
            self._of[s.image.sop].append(s)
        rows_mm, columns_mm = slices[0].image.pixel_mm or (math.nan, math.nan)
        self._mm, self.pixel_area_mm2 = (rows_mm, columns_mm), rows_mm * columns_mm
        self._step = float(np.median(np.diff([s.along for s in slices]))) if len(slices) > 1 else math.inf

    def slice_of(self, outline: lidc.Outline) -> Slice | None:
        planes = self._of.get(outline.sop, [])
        if len(planes) < 2:
            return planes[0] if planes else None
        nearest = min(planes, key=lambda s: abs(_z(s) - outline.z_mm))
        return nearest if abs(_z(nearest) - outline.z_mm) <= self._step / 2 + SAME_MM else None

    def mm(self, outline: lidc.Outline) -> tuple[float, float, float]:
        plane = self.slice_of(outline)
        assert plane is not None
        return outline.x * self._mm[1], outline.y * self._mm[0], plane.along

    def centre(self, nodule: lidc.Nodule) -> tuple[Slice, tuple[float, float]]:
        """The slice with the largest mean area over the readers, and the (row, column) mean of their centroids on it."""
        on: dict[tuple[float, int, int], list[lidc.Outline]] = defaultdict(list)
        planes: dict[tuple[float, int, int], Slice] = {}
        for mark in nodule.marks:
            for outline in mark.outlines:
                plane = self.slice_of(outline)
                assert plane is not None
                key = (plane.along, plane.file, plane.frame)
                on[key].append(outline)
                planes[key] = plane
        largest = max(sorted(on), key=lambda key: sum(o.area for o in on[key]))
        here = on[largest]
        return planes[largest], (sum(o.y for o in here) / len(here), sum(o.x for o in here) / len(here))


def _z(s: Slice) -> float:
    position = s.image.frames[s.frame].position
    return position[2] if position else math.nan


def _row(context: Context, here: Slice, nodule: lidc.Nodule, centre: tuple[float, float]) -> dict[str, Any]:
    image, pseudonymiser = here.image, context.pseudonymiser
    sample = pseudonymiser.id("sample", image.series, image.sop, str(here.frame), f"{centre[0]:.2f}", f"{centre[1]:.2f}")
    patient = image.patient or image.study
    return {
        "sample_id": sample,
        "group_id": {"patient": patient, "subject": patient, "lesion": sample}.get(context.spec.split.grouping, sample),
        "patient_id": patient,
        "series_id": image.series,
        **image.device.columns(image.acquired_at),
        **image.facts,
        "label": nodule.label(),
        "synthetic": image.synthetic,
    }
