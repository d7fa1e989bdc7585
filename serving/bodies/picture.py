"""A photograph, slice or tile in any kind that ingest reads, brought to the spec's grid as ingest does.

Its device: EXIF's maker and model, else the client's key. A TIFF is `tiff.py`'s: for models of slides it is a slide. Tiles of slides have a fixed
resolution, so a tile of another size is refused and not resized.
"""

from __future__ import annotations

from components.core.errors import DataError
from components.core.imaging import picture_kinds
from components.core.imaging.deidentify import camera_identity
from components.core.imaging.fit import fit
from components.core.imaging.pictures import decode_picture
from components.core.imaging.slides import AS_IT_IS
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from serving.bodies.body import MOST_EXPANSION, Body
from serving.predictor import Query

TYPES = tuple(kind.content_type for kind in picture_kinds.KINDS if kind is not picture_kinds.TIFF)
MOST_TILE_PIXELS = 1 << 24
"""Of a tile, whose spec's limit is that of a whole slide."""


def fits(spec: DiseaseSpec) -> bool:
    """Images and tiles of bytes."""
    return spec.input.layout in ("image", "tiles") and spec.input.dtype == "uint8" and spec.input.shape[0] in (1, 3)


def warm() -> None:
    """Import what the first request would wait for."""
    import imagecodecs
    import PIL.Image  # noqa: F401

    imagecodecs.png_version()  # it loads its codecs one by one, at first use


def read(body: Body, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """One sample."""
    body.file()
    most = spec.limits.pixels_per_image if spec.input.layout != "tiles" else MOST_TILE_PIXELS
    with body.open() as handle:
        picture = decode_picture(handle, most_pixels=most, most_expansion=MOST_EXPANSION)
    size = picture.pixels.shape[:2]
    if spec.input.layout == "tiles" and size != tuple(spec.input.shape[1:]):
        wanted = " x ".join(map(str, spec.input.shape[1:]))
        raise DataError("a tile of another size", got=f"{size[0]} x {size[1]}", allowed=f"{wanted} at {spec.input.microns_per_pixel:g} microns")
    wanted_mpp = spec.input.microns_per_pixel
    if body.mpp is not None and wanted_mpp is not None and not abs(body.mpp / wanted_mpp - 1) <= AS_IT_IS:
        raise DataError("a tile of another resolution", got=f"{body.mpp:g} microns a pixel", allowed=f"{wanted_mpp:g}")
    camera = camera_identity(pseudonymiser, picture.maker, picture.model)
    return [
        Query(
            array=fit(picture.pixels, spec.input), device_key=body.device or camera.key, manufacturer=camera.manufacturer, device_model=camera.model,
            acquisition={"acq_rows": size[0], "acq_columns": size[1]}, source="picture",
        )
    ]  # fmt: skip
