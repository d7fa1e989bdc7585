"""Every bound of what a reader believes has two sides, and each of them fires: a table of bounds, a value inside, one beyond either end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.chain.ct_volume import LARGEST_STEP_MM, SMALLEST_STEP_MM, read_volume
from components.core.errors import DataError
from components.core.imaging.dicom import read_dicom
from components.core.imaging.fit import LONGEST, SMALLEST, fit
from components.core.imaging.nifti import ANISOTROPY, VOXEL_MM, Volume
from components.core.imaging.plausibility import ANY_PIXEL_MM, PLAUSIBLE, SLOPE_HU, pixel_mm
from components.core.imaging.resample import COARSEST, COVER, MOST_COVER, head_on_grid
from components.core.imaging.slides import MPP_LIMITS, mpp_of
from components.core.recordings.reading import LEAST_TIMES, MOST_TIMES
from components.core.recordings.table import FAR
from components.core.spec import DiseaseSpec
from serving import bodies
from serving.bodies.body import Body
from tests.ingest.clocks import SPEC as GAIT
from tests.ingest.clocks import read, walk
from tests.ingest.made import PSEUDONYMISER
from tests.serving import small_bodies
from tests.serving.small_bodies import BRAIN, FUNDUS, disease
from tests.serving.small_dicom import ct_slice, image
from tests.serving.small_package import lung_nodule


@dataclass(frozen=True)
class Bound:
    """Args: read: takes a value as a reader would meet it. inside: is taken. below, above: are refused; None where nothing lies there."""

    read: Callable[[float], Any]
    inside: float
    below: float | None
    above: float | None
    reason: str


def ct(**changes: Any) -> Any:
    return read_dicom(ct_slice(image(size=64), **changes), spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)


def ball(step: float, *, n: int = 0, spacing: float = 6.0) -> Any:
    """A bright ball of 140 mm in voxels of `step` mm on the grid of alzheimer-smri (144 x 180 x 144 mm)."""
    n = n or max(4, round(200 / step))
    axes = np.meshgrid(*(step * (np.arange(n) - (n - 1) / 2),) * 3, indexing="ij")
    data = np.where(sum(a**2 for a in axes) < 70**2, 700, 20).astype(np.float32)
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3] = -step * (n - 1) / 2
    return head_on_grid(Volume(data, affine, 16, ""), shape=(24, 30, 24), spacing_mm=(spacing,) * 3)


def nifti(mm: float, *, along: tuple[float, float, float] = (1, 1, 1)) -> Any:
    """A head whose voxels are `mm` times `along`."""
    import nibabel

    affine = np.diag([*(mm * a for a in along), 1.0])
    raw = nibabel.Nifti1Image(small_bodies.head(), affine).to_bytes()
    return bodies.read("application/x-nifti", Body(raw), disease(BRAIN), PSEUDONYMISER)


def picture(height: int, width: int) -> Any:
    return bodies.read("image/png", Body(small_bodies.picture(height=height, width=width)), disease(FUNDUS), PSEUDONYMISER)


def recording(*, rate: float = 64.0, value: float = 600.0, scale: float = 1.0) -> Any:
    made = walk(8, rate)
    made.rows[:, 1:] *= scale
    middle = slice(len(made.rows) // 3, len(made.rows) // 2)
    made.rows[middle, 3] = np.linspace(value, value * 0.99, middle.stop - middle.start)
    windows, reading = read(made.text())
    if not any(w.fault is None for w in windows):
        raise DataError("; ".join(reading.coverage().lost_s))
    return windows


SIDE = disease(FUNDUS).input.shape[1]
LOW, HIGH = PLAUSIBLE["CT"]["acq_pixel_mm"]
RMS = GAIT.recording.rms if GAIT.recording else (0, 0)
BOUNDS = {
    "pixel spacing of CT, mm": Bound(lambda v: ct(pixel_mm=v), 0.7, LOW * 0.9, HIGH * 1.1, "pixel spacing beyond"),
    "rescale slope, HU": Bound(lambda v: ct(RescaleSlope=str(v)), 1, SLOPE_HU[0] / 2, SLOPE_HU[1] * 2, "rescale slope"),
    "rescale slope downwards, HU": Bound(lambda v: ct(RescaleSlope=str(v)), -1, -SLOPE_HU[1] * 2, 0, "rescale slope"),
    "rows of a picture": Bound(lambda v: picture(round(v), SIDE), SIDE, SIDE * SMALLEST - 1, SIDE * LONGEST * 1.1, "smaller than|times as long"),
    "columns of a picture": Bound(lambda v: picture(SIDE, round(v)), SIDE, SIDE * SMALLEST - 1, SIDE * LONGEST * 1.1, "smaller than|times as long"),
    "voxel on the grid, mm": Bound(ball, 4, None, 6 * COARSEST * 1.05, "voxels over three times"),
    "extent of a volume, mm": Bound(
        lambda v: ball(8, n=round(v / 8)), 200, 180 * COVER * 0.85, 180 * MOST_COVER * 1.05, "covers less than half|over six times"
    ),
    "voxel, mm": Bound(nifti, 4, VOXEL_MM[0] * 0.9, VOXEL_MM[1] * 1.1, "impossible voxel size"),
    "voxel's side beside another": Bound(
        lambda v: nifti(4, along=(1, 1, v)), 1, 0.9 / ANISOTROPY, 1.1 * ANISOTROPY, "too anisotropic|covers less|over three times"
    ),
    "microns per pixel of a slide": Bound(
        lambda v: mpp_of({"openslide.mpp-x": str(v), "openslide.mpp-y": str(v)}), 0.5, MPP_LIMITS[0] * 0.9, MPP_LIMITS[1] * 1.1, "no resolution"
    ),
    "rate of a recording, Hz": Bound(lambda v: recording(rate=v), 64, 40 * LEAST_TIMES * 0.95, 40 * MOST_TIMES * 1.05, "where the model wants 40"),
    "a value of a recording, mg": Bound(lambda v: recording(value=v), 600, -4000 * FAR * 1.1, 4000 * FAR * 1.1, "values that no sensor gives"),
    "root mean square of a recording, mg": Bound(lambda v: recording(scale=v, value=600 * v), 1, RMS[0] / 2000, RMS[1] / 400, "another unit"),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_has_two_sides(name: str):
    bound = BOUNDS[name]
    bound.read(bound.inside)
    for beyond in (bound.below, bound.above):
        if beyond is not None:
            with pytest.raises(DataError, match=bound.reason):
                bound.read(beyond)


@pytest.mark.parametrize("modality", ["CT", "MR", "MG", "DX", "fundus"])
def test_spacings_of_a_modality_lie_inside_of_what_any_may_have(modality: str):
    low, high = pixel_mm(modality)
    assert ANY_PIXEL_MM[0] <= low < high <= ANY_PIXEL_MM[1]


@pytest.mark.parametrize(
    ("step", "reason"), [(SMALLEST_STEP_MM / 2, "closer than scanners take them"), (LARGEST_STEP_MM * 1.1, "too far apart"), (1.0, "")]
)
def test_slices_of_a_chest_lie_neither_too_close_nor_too_far_apart(step: float, reason: str, tmp_path: Path):
    for k in range(5):
        changes = {"ImagePositionPatient": [0, 0, k * step], "InstanceNumber": str(k + 1), "SOPInstanceUID": f"2.25.9{k}"}
        (tmp_path / f"{k}.dcm").write_bytes(ct_slice(image(size=64), **changes))
    if reason:
        with pytest.raises(DataError, match=reason):
            read_volume(tmp_path, spec=lung_nodule(), pseudonymiser=PSEUDONYMISER)
    else:
        assert read_volume(tmp_path, spec=lung_nodule(), pseudonymiser=PSEUDONYMISER).step_mm[0] == pytest.approx(step)


def test_a_picture_as_large_as_the_input_is_fitted_whatever_its_dtype():
    spec: DiseaseSpec = disease(FUNDUS)
    whole = np.zeros((SIDE * 2, SIDE * 3, 3), dtype=np.uint8)
    assert fit(whole, spec.input).shape == tuple(spec.input.shape)
