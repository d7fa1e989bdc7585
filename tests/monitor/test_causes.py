"""The simulated change that moved the figures is named, and a pattern that none explains has no cause."""

from __future__ import annotations

import numpy as np
import pytest

from components.core import acquisition_changes, image_quality
from components.core.spec import DiseaseSpec
from components.monitor.causes import Signatures
from components.monitor.detect import Detector
from components.monitor.reference import Reference
from components.monitor.sketch import hashes
from pipelines import catalog


def pictures(rng: np.random.Generator, n: int, spec: DiseaseSpec) -> np.ndarray:
    """Blobs on a textured ground; brightness, contrast and size differ from sample to sample."""
    from scipy.ndimage import gaussian_filter

    size = spec.input.shape[-1]
    y, x = np.mgrid[:size, :size].astype(np.float32)
    radius, contrast = rng.uniform(0.15, 0.3, (n, 1, 1)) * size, rng.uniform(30, 60, (n, 1, 1))
    ground = gaussian_filter(rng.standard_normal((n, size, size)), (0, 1.2, 1.2)) * 12 + rng.uniform(120, 150, (n, 1, 1))
    one = ground - contrast * (np.hypot(y - size / 2, x - size / 2) < radius) + rng.normal(0, 2, (n, size, size))
    return (one[:, None] * np.array([1.1, 1.0, 0.8])[:, None, None] * rng.uniform(0.97, 1.03, (n, 3, 1, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def world() -> tuple[DiseaseSpec, Reference, Signatures]:
    spec, rng = catalog.load("skin-lesion"), np.random.default_rng(0)
    known = pictures(rng, 240, spec)
    figures = image_quality.figures(known, spec)
    return spec, Reference.of(figures, ["a"] * 240, np.arange(240)), Signatures(acquisition_changes.simulated(known[:60], spec))


def seen(world: tuple[DiseaseSpec, Reference, Signatures], x: np.ndarray) -> list[str]:
    spec, reference, signatures = world
    detector = Detector(reference)
    sketch = detector.sketch("a")
    sketch.add(reference.baseline("a")[0].places, image_quality.figures(x, spec), hashes(range(len(x))))
    judged = detector.judge({"a": sketch})["a"]
    return [cause.name for cause in signatures.name(judged.shifts, reference.baseline("a")[0], judged.patients)]


@pytest.mark.parametrize("cause", ["gain", "offset", "noise", "blur", "sharpening", "gamma", "compression", "stain"])
def test_the_cause_is_named_first_at_a_strength_between_the_simulated_ones(cause: str, world: tuple[DiseaseSpec, Reference, Signatures]) -> None:
    spec, _, _ = world
    x = pictures(np.random.default_rng(5), 80, spec)
    assert seen(world, acquisition_changes.changed(cause, x, 0.7, np.random.default_rng(6), spec))[0] == cause


def test_strength_is_estimated(world: tuple[DiseaseSpec, Reference, Signatures]) -> None:
    spec, reference, signatures = world
    x = acquisition_changes.changed("gain", pictures(np.random.default_rng(7), 100, spec), -0.6, np.random.default_rng(8), spec)
    detector = Detector(reference)
    sketch = detector.sketch("a")
    sketch.add(reference.baseline("a")[0].places, image_quality.figures(x, spec), hashes(range(len(x))))
    first = signatures.name(detector.judge({"a": sketch})["a"].shifts, reference.baseline("a")[0], 100)[0]
    assert first.strength == pytest.approx(-0.6, abs=0.25)


def test_a_pattern_that_no_change_makes_has_no_cause(world: tuple[DiseaseSpec, Reference, Signatures]) -> None:
    _, reference, signatures = world
    nonsense = {"noise_sd": 1.2, "fineness": -1.2, "sharpness": 1.0, "blockiness": -1.2, "skewness": 1.2, "red_green": 1.0}
    assert signatures.name(nonsense, reference.baseline("a")[0], 100) == []
    assert signatures.name({}, reference.baseline("a")[0], 100) == []
