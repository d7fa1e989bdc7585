"""A whole slide (SVS, pyramidal TIFF, a DICOM series): its tiles over tissue, as ingest cuts them from a test slide, for one answer.

Slides are too large for a body as a rule and come by reference, those of DICOM always: each of their files is one level. Work and memory are bounded
before pixels are decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core import scratch
from components.core.imaging.errors import NotUsable
from components.core.inference_log.tables import SLIDE
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from serving.bodies.body import Body
from serving.predictor import Query, Tiles

if TYPE_CHECKING:
    from components.core.imaging.header import ImageHeader
    from components.core.imaging.slides import Slide

TYPES = ("image/tiff", "application/dicom")
MOST_EXPANSION = 300  # glass packs 300 times, tissue 20 to 60 times
MOST_VIEW_PIXELS = 1 << 28  # of the level that tissue is looked for in
MOST_TILE_BYTES = 512 << 20
MOST_READ_PIXELS = 1 << 32  # of all tiles at the level that they are read from
MOST_VIEW_SIDE = 1024  # of the picture of the whole slide that an explanation is drawn on


def fits(spec: DiseaseSpec) -> bool:
    """Tiles that are put together to one answer."""
    return spec.input.layout == "tiles" and spec.aggregate is not None and spec.input.dtype == "uint8" and spec.input.shape[0] == 3


def warm() -> None:
    """Import what the first request would wait for."""
    import openslide  # noqa: F401
    import PIL.Image  # noqa: F401

    from components.core.imaging import slide_device, tissue  # noqa: F401


def read(body: Body, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """One sample of many tiles."""
    from PIL import Image

    from components.core.imaging import tissue

    wanted = spec.input.microns_per_pixel
    assert wanted is not None
    with _opened(body, spec, pseudonymiser) as (slide, size, origin):
        origin["device_key"] = body.device_or(origin["device_key"])
        if 3 * slide.width * slide.height > MOST_EXPANSION * size:
            raise NotUsable("pixels that unpack to more than is believable")
        level, factor = slide.level_for(wanted)
        side = int(spec.input.shape[-1])
        tile_um = side * factor * level.mpp
        source = max((one for one in slide.levels if one.mpp <= tile_um / tissue.PER_TILE), key=lambda one: one.mpp, default=slide.levels[0])
        if source.width * source.height > MOST_VIEW_PIXELS:
            raise NotUsable("a slide without a level that is coarse enough to look for tissue")
        seen = tissue.view(slide, tile_um)
        corners = tissue.grid(slide, tile_um, seen)
        if not len(corners):
            raise NotUsable("no tissue found")
        if len(corners) * side * side * 3 > MOST_TILE_BYTES or len(corners) * (side * factor) ** 2 > MOST_READ_PIXELS:
            raise NotUsable("more tissue than a request may have")
        arrays = np.empty((len(corners), 3, side, side), dtype=np.uint8)
        for n, (x, y) in enumerate(corners.tolist()):
            arrays[n] = slide.tile(x, y, level, factor, side).transpose(2, 0, 1)
        places = np.round((corners + tile_um / slide.mpp / 2) * slide.mpp, 2).astype(np.float64)
        shrunk = -(-max(seen.shape) // MOST_VIEW_SIDE)
        picture = np.asarray(Image.fromarray(seen).reduce(shrunk)) if shrunk > 1 else seen
        facts = {"acq_microns_per_pixel": round(factor * level.mpp, 4), "acq_rows": slide.height, "acq_columns": slide.width}
    return [
        Query(
            array=arrays[len(arrays) // 2], acquisition=facts, source=SLIDE, part={"tiles": len(arrays)},
            tiles=Tiles(arrays, places, tile_um, picture, shrunk * tile_um / tissue.PER_TILE),
            **origin,
        )
    ]  # fmt: skip


@contextmanager
def _opened(body: Body, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> Iterator[tuple[Slide, int, dict[str, Any]]]:
    """The slide, the bytes of its files, and what made it and whose it is, as parts of a query."""
    pixels = spec.limits.pixels_per_image
    if body.head()[128:132] == b"DICM":
        from components.core.imaging.slide_dicom import open_dicom_slide

        if not isinstance(body.content, Path) or not body.content.is_dir():
            raise NotUsable("one file of a DICOM slide, which is one level of it: its series is meant, by reference")
        with open_dicom_slide(
            body.content, spec=spec, pseudonymiser=pseudonymiser, pixels=pixels, most_expansion=MOST_EXPANSION, told_mpp=body.mpp
        ) as found:
            yield found.slide, found.size, _of_header(found.header)
        return
    from components.core.imaging.slide_device import device_columns
    from components.core.imaging.slides import open_slide

    with _on_disk(body) as path, open_slide(path, pixels=pixels, told_mpp=body.mpp) as slide:
        device = device_columns(slide, spec, pseudonymiser)
        named = {"device_key": "device_key", "manufacturer": "manufacturer", "device_model": "model"}
        yield slide, path.stat().st_size, {part: device[name] for part, name in named.items()} | {"software": device["software"] or None}


def _of_header(header: ImageHeader) -> dict[str, Any]:
    device = header.device
    return {
        "device_key": device.key, "manufacturer": device.manufacturer, "device_model": device.model, "software": device.software or None,
        "patient": header.patient, "study": header.study, "series": header.series,
    }  # fmt: skip


@contextmanager
def _on_disk(body: Body) -> Iterator[Path]:
    """OpenSlide needs a file."""
    content = body.file()
    if isinstance(content, Path):
        yield content
        return
    with scratch.room("slide") as room:
        (room / "slide.tif").write_bytes(content)
        yield room / "slide.tif"
