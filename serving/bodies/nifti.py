"""A NIfTI volume, plain or gzipped, turned and resampled onto the spec's grid as ingest does. It names no device: the client may."""

from __future__ import annotations

import numpy as np

from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec
from serving.bodies.body import MOST_EXPANSION, Body
from serving.predictor import Query

TYPES = ("application/x-nifti",)


def fits(spec: DiseaseSpec) -> bool:
    """Volumes of one channel."""
    return spec.input.layout == "volume" and spec.input.shape[0] == 1 and spec.input.spacing_mm is not None and spec.input.dtype == "float32"


def warm() -> None:
    """Import what the first request would wait for."""
    import nibabel  # noqa: F401
    import scipy.ndimage  # noqa: F401

    from components.core.imaging import nifti, resample  # noqa: F401


def read(body: Body, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> list[Query]:
    """One sample."""
    from components.core.imaging.nifti import read_volume
    from components.core.imaging.resample import head_on_grid

    body.file()
    shape, spacing = spec.input.shape, spec.input.spacing_mm
    assert spacing is not None
    with body.open() as handle:
        volume = read_volume(handle, most_voxels=spec.limits.pixels_per_image, frames=spec.input.frames, most_expansion=MOST_EXPANSION)
    sizes, sides = volume.spacing_mm, np.sort(volume.data.shape)
    facts = {
        "acq_slice_thickness_mm": max(sizes), "acq_pixel_mm": min(sizes), "acq_rows": int(sides[-1]), "acq_columns": int(sides[-2]),
        "acq_bits": volume.bits, "acq_modality": "MR",
    }  # fmt: skip
    grid = head_on_grid(volume, shape=(shape[1], shape[2], shape[3]), spacing_mm=(spacing[0], spacing[1], spacing[2]))
    return [Query(array=grid[None], device_key=body.device_or(), acquisition=facts, source="nifti")]
