"""Whole slides (SVS, pyramidal TIFF and what else OpenSlide reads in one file) and annotations in ASAP's XML, as CAMELYON has them.

Two passes. The first opens every slide, reads its header and annotations, and so knows devices and labels; then the slides that are no
test slides are dealt into train and val. The second finds tissue, labels each tile, and reads only the tiles that are kept.

    tile      spec.input.shape at spec.input.microns_per_pixel, side by side; `place` is its centre (x, y) in microns
    label     `positive` when at least half of the tile's centre (the middle half of each side) lies in a tumour outline
    group     the slide; `group_label` says whether it has any outline, `lesion_id` which outline covers most of a tile
    device    the values of OpenSlide's properties that `device.key` names; "openslide.mpp-x" is rounded to 0.01 microns
A slide is used whole or not at all: one whose tenth tile cannot be decoded is in quarantine.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from components.core.errors import SpecError
from components.core.imaging import camelyon_xml, tissue
from components.core.imaging.camelyon_xml import Polygon
from components.core.imaging.errors import NotUsable
from components.core.imaging.slide_device import device_columns
from components.core.imaging.slides import Slide, open_slide
from components.core.spec import DiseaseSpec
from components.ingest.deidentify import word_hashes
from components.ingest.job import Arrays, Context, Job, Task
from components.ingest.journal import Outcome, Rejected
from components.ingest.slide_sampling import drawn
from components.ingest.slide_source import Found, assign, is_mask, public, slides, truth

LABEL_SHARE = 0.5
MASKS = "a drawing over a slide"


def read(job: Job) -> None:
    """See the module. Raises SpecError for a spec that whole slides cannot serve."""
    spec, source = job.context.spec, job.context.source
    _fits(spec, given=spec.split.given or job.context.external is not None)
    found = list(slides(source))
    masks = [Rejected(n, MASKS, skipped=True) for n, item in enumerate(source.items) if is_mask(item.path)]
    job.journal.record_once("masks", Outcome(rejected=masks))
    heads = (Task(f"head-{one.number:06d}", one) for one in found)
    job.stage("slides", read_head, heads, total=len(found), size=lambda _: 1, file=lambda task: task.payload.number)
    usable = {number: body for group in job.journal.groups("slide") for number, body in job.journal.found("slide", group)}
    rows = [(body["group"], body["split"], body["device"], body["label"]) for _, body in sorted(usable.items())]
    if job.context.external is None:
        splits = assign(rows, spec, {body["group"]: source.items[number].path for number, body in usable.items()})
    else:  # no training touches a test set, so its slides are whole
        splits = dict.fromkeys((row[0] for row in rows), "test" if job.context.external.role == "test" else "train")
    tasks = (Task(f"tiles-{one.number:06d}", (one, splits[usable[one.number]["group"]])) for one in found if one.number in usable)
    job.stage("tiles", read_tiles, tasks, total=len(usable), size=lambda _: 1, file=lambda task: task.payload[0].number)


def _fits(spec: DiseaseSpec, *, given: bool) -> None:
    for holds, key, got, allowed in (
        (spec.input.layout == "tiles", "input.layout", spec.input.layout, "tiles"),
        (spec.input.dtype == "uint8", "input.dtype", spec.input.dtype, "uint8"),
        (spec.input.shape[0] == 3 and spec.input.shape[-1] == spec.input.shape[-2], "input.shape", list(spec.input.shape), "[3, side, side]"),
        (spec.input.storage == "shard", "input.storage", spec.input.storage, "shard"),
        (spec.target.kind == "binary", "target.kind", spec.target.kind, "binary"),
        (spec.split.grouping == "slide", "split.grouping", spec.split.grouping, "slide"),
        (given, "split.given", given, "true: the reader deals the slides, for it draws tiles from training slides only"),
    ):
        if not holds:
            raise SpecError("reader 'whole-slide' cannot serve this", where=key, got=got, allowed=allowed)


def read_head(context: Context, task: Task) -> Outcome:
    """Header and annotations of one slide: what the split has to know."""
    one: Found = task.payload
    out = Outcome()
    try:
        with opened(context, one) as slide:
            polygons = _polygons(context, one)
            slide.level_for(_mpp(context.spec))
            facts = device_columns(slide, context.spec, context.pseudonymiser)
        body = {"group": _group(context, one), "split": one.split, "device": facts["device_key"], "label": truth(one, _outlines(polygons))}
        out.found.append(("slide", body["group"], one.number, body))
        out.words = word_hashes(_words(slide), context.pseudonymiser)
    except NotUsable as reason:
        out.rejected.append(Rejected(one.number, reason.reason))
    except OSError:
        out.rejected.append(Rejected(one.number, "unreadable file"))
    return out


def read_tiles(context: Context, task: Task) -> Outcome:
    """The tiles of one slide that its split keeps."""
    one, split = task.payload
    out = Outcome()
    spec = context.spec
    try:
        with opened(context, one) as slide, Arrays(context, task, out) as arrays:
            polygons = _polygons(context, one) or []
            level, factor = slide.level_for(_mpp(spec))
            side = int(spec.input.shape[-1])
            tile_um = side * factor * level.mpp  # a level that is nearly right is taken as it is, so this may be 5 % off side * spec
            corners = tissue.grid(slide, tile_um)
            if not len(corners):
                raise NotUsable("no tissue found")
            width = tile_um / slide.mpp
            centre, lesion, touched = camelyon_xml.cover(polygons, corners, width)
            labels = (centre >= LABEL_SHARE).astype(np.int64)
            out.notes["lesions without a tile"] = sum(not p.excluded for p in polygons) - len(touched)
            group = _group(context, one)
            shared = device_columns(slide, context.spec, context.pseudonymiser) | {
                "group_id": group,
                "patient_id": group,
                "series_id": group,
                "given_split": split,
                "group_label": _class(spec, truth(one, _outlines(polygons))),
                "reader_score": one.reader_score,
                "acq_microns_per_pixel": round(factor * level.mpp, 4),
                "acq_rows": slide.height,
                "acq_columns": slide.width,
            }
            for n in drawn(labels, split, public(context.source.items[one.number].path)):
                x, y = (int(v) for v in corners[n])
                row = {
                    "sample_id": context.pseudonymiser.id("sample", group, str(x), str(y)),
                    "label": _class(spec, int(labels[n])),
                    "place": [round((v + width / 2) * slide.mpp, 2) for v in (x, y)],
                    "lesion_id": context.pseudonymiser.id("lesion", group, str(lesion[n])) if lesion[n] >= 0 else None,
                }
                arrays.add(shared | row, np.ascontiguousarray(slide.tile(x, y, level, factor, side).transpose(2, 0, 1)))
    except NotUsable as reason:
        out.samples.clear()
        out.rejected.append(Rejected(one.number, reason.reason))
    except OSError:
        out.samples.clear()
        out.rejected.append(Rejected(one.number, "unreadable file"))
    return out


@contextmanager
def opened(context: Context, one: Found) -> Iterator[Slide]:
    """A slide of the source; from a store it is copied beside the work first, since OpenSlide needs a file."""
    number, item, most = one.number, context.item(one.number), context.spec.limits.pixels_per_image
    if not context.source.root.startswith("s3://"):
        with open_slide(Path(context.source.root) / item.path, pixels=most, told_mpp=one.mpp) as slide:
            yield slide
        return
    with tempfile.TemporaryDirectory(dir=context.folder) as scratch:
        path = Path(scratch) / f"slide{Path(item.path).suffix}"
        with context.source.open(number) as remote, open(path, "wb") as local:
            shutil.copyfileobj(remote, local, 1 << 20)
        with open_slide(path, pixels=most, told_mpp=one.mpp) as slide:
            yield slide


def _mpp(spec: DiseaseSpec) -> float:
    assert spec.input.microns_per_pixel is not None  # layout 'tiles' has it
    return spec.input.microns_per_pixel


def _polygons(context: Context, one: Found) -> list[Polygon] | None:
    if one.annotation is None:
        return None
    if context.source.items[one.annotation].size > camelyon_xml.XML_BYTES:
        raise NotUsable("annotations over 256 MB")
    with context.source.open(one.annotation) as handle:
        return camelyon_xml.parse(handle.read())


def _outlines(polygons: list[Polygon] | None) -> int | None:
    return None if polygons is None else sum(not p.excluded for p in polygons)


def _group(context: Context, one: Found) -> str:
    return context.pseudonymiser.id("slide-file", context.source.items[one.number].path)


def _class(spec: DiseaseSpec, positive: int) -> int:
    return spec.positive_index if positive else 1 - spec.positive_index


def _words(slide: Slide) -> set[str]:
    """Names that a header may hold and a path repeat."""
    return {slide.properties[name].strip() for name in ("aperio.User", "aperio.Title", "tiff.Artist") if slide.properties.get(name, "").strip()}
