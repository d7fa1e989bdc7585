"""The chain: a volume in, its nodules out. Diagnosis is asked afterwards, with the patch that each finding's middle slice gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.chain import lung_preprocess, lung_segment, nodule_detect, nodule_segment
from components.core.chain.candidate_classifier import NAMES, Detector, figures
from components.core.chain.ct_volume import CtVolume, Triple
from components.core.chain.lung_segment import Lungs
from components.core.chain.nodule_segment import Region
from components.core.errors import SpecError
from components.core.imaging.patches import cut_patch
from components.core.spec import DiseaseSpec, Input

SMALLEST_MM, LARGEST_MM = 3.0, 30.0  # by definition a nodule is at most 30 mm (Fleischner Society 2017); below 3 mm readers do not outline


@dataclass(frozen=True)
class Finding:
    """One place that may be a nodule.

    Args:
        position_mm: Of its centre of mass, patient coordinates (left, posterior, superior).
        middle: Slice with most of it, and the row and column of its centre there, in pixels.
        detection: Probability that it is a nodule at all.
    """

    position_mm: Triple
    middle: tuple[int, float, float]
    diameter_mm: float
    volume_mm3: float
    detection: float
    region: Region
    figures: NDArray[np.float64]


def find(volume: CtVolume, detector: Detector, *, lowest: float | None = None) -> tuple[list[Finding], Lungs]:
    """All four steps but the diagnosis.

    Args:
        lowest: Show what reaches this probability, instead of the detector's own threshold.

    Returns:
        Findings, the most certain first; no two of one region. The lungs, on the working grid.

    Raises:
        DataError: There is no lung in the volume.
    """
    places, lungs = candidates(volume)
    if not places:
        return [], lungs
    probability = detector.probabilities(np.stack([f.figures for f in places]))
    limit = detector.threshold if lowest is None else lowest
    found: list[Finding] = []
    for k in np.argsort(-probability, kind="stable"):
        if probability[k] < limit:
            break
        place = places[k]
        if all(_apart(place, other) for other in found):
            found.append(Finding(**{**vars(place), "detection": float(probability[k])}))
    return found, lungs


def candidates(volume: CtVolume) -> tuple[list[Finding], Lungs]:
    """Preprocessing, lungs, places, outlines; every place with its figures and no probability yet."""
    working, grid = lung_preprocess.working_grid(volume.hu, volume.step_mm)
    lungs = lung_segment.segment(working)
    spots = nodule_detect.candidates(working, lungs.mask, lung_hu=lungs.lung_hu)
    out: list[Finding] = []
    for k, voxel in enumerate(grid.voxel(spots.at, volume.step_mm)):
        radius = float(spots.sigma_mm[k]) * 3**0.5
        region = nodule_segment.segment(volume.hu, lungs.mask, volume.step_mm, centre=(voxel[0], voxel[1], voxel[2]), radius_mm=radius)
        if region is None or not SMALLEST_MM <= region.diameter_mm <= LARGEST_MM:
            continue
        out.append(_finding(volume, region, figures(spots, k, region, volume.step_mm)))
    return out, lungs


def _finding(volume: CtVolume, region: Region, numbers: NDArray[np.float64]) -> Finding:
    assert numbers.shape == (len(NAMES),)
    k = int(np.argmax(region.mask.sum(axis=(1, 2))))
    rows, columns = np.nonzero(region.mask[k])
    middle = (region.corner[0] + k, float(rows.mean()) + region.corner[1], float(columns.mean()) + region.corner[2])
    return Finding(volume.place_mm(region.centre), middle, region.diameter_mm, region.volume_mm3, float("nan"), region, numbers)


def _apart(a: Finding, b: Finding) -> bool:
    """Whether the middles of both lie outside the other's ball."""
    distance = float(np.linalg.norm(np.subtract(a.position_mm, b.position_mm)))
    return distance > max(a.diameter_mm, b.diameter_mm) / 2


def patches(volume: CtVolume, found: list[Finding], spec: DiseaseSpec) -> NDArray[Any]:
    """(n, 1, h, w): what the diagnosing model looks at, cut as ingest cuts it around a reader's mark."""
    check(spec)
    pixel_mm = volume.step_mm[1], volume.step_mm[2]
    cut = [cut_patch(volume.hu[f.middle[0]], centre_rc=f.middle[1:], pixel_mm=pixel_mm, spec_input=spec.input) for f in found]
    return np.stack(cut) if cut else np.zeros((0, *spec.input.shape), dtype=spec.input.dtype)


def check(spec: DiseaseSpec) -> Input:
    """Raises SpecError unless the spec's model looks at CT patches on a grid of its own."""
    wanted = spec.input
    if wanted.unit != "HU" or wanted.layout != "image" or wanted.shape[0] != 1 or wanted.spacing_mm is None:
        raise SpecError(
            "not a model for CT patches",
            where=spec.name,
            got=f"{wanted.modality} {wanted.layout} {list(wanted.shape)}",
            allowed="CT, [1, h, w], spacing_mm",
        )
    return wanted


def label_volume(volume: CtVolume, found: list[Finding]) -> NDArray[np.uint8]:
    """(slices, rows, columns): 0, or the finding's number from 1. Of more than 255 the first 255."""
    out = np.zeros(volume.hu.shape, dtype=np.uint8)
    for number, finding in reversed(list(enumerate(found[:255], 1))):
        finding.region.into(out, number)
    return out
