"""What lies outside of what a model was tested on, and what does not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from components.core import image_quality
from components.core.outside import LEAST, Limits
from components.core.spec import DiseaseSpec
from tests.serving.small_package import CATALOGUE, lung_nodule

SPEC = lung_nodule(abstain={})
SHAPE = SPEC.input.shape


def patches(n: int, seed: int, *, mean: float = -600, noise: float = 60) -> np.ndarray:
    rng = np.random.default_rng(seed)
    level = rng.normal(mean, 60, (n, 1, 1, 1))
    disc = np.hypot(*np.ogrid[-26:26, -26:26]) < 8
    return (level + rng.normal(0, noise, (n, *SHAPE)) + rng.uniform(200, 500, (n, 1, 1, 1)) * disc).astype(np.float32)


def reference(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    return pd.DataFrame(image_quality.figures(patches(n, 0), SPEC) | {f"embedding_{k}": rng.normal(size=n) for k in (1, 2, 3)})


def figures(x: np.ndarray) -> list[dict[str, float]]:
    table = image_quality.figures(x, SPEC)
    return [{name: float(v[n]) for name, v in table.items()} for n in range(len(x))]


LIMITS = Limits.learn(SPEC, reference())


def test_samples_like_the_reference_are_inside() -> None:
    assert sum(bool(LIMITS.reasons(f, {})) for f in figures(patches(2000, 1))) <= 2


def test_a_shift_within_what_devices_do_is_inside() -> None:
    assert sum(bool(LIMITS.reasons(f, {})) for f in figures(patches(200, 2, mean=-560, noise=75))) <= 2


def test_what_is_no_lung_is_outside_and_says_so() -> None:
    bone, air = np.full((1, *SHAPE), 380.0), np.full((1, *SHAPE), -999.0)
    rng = np.random.default_rng(3)
    for x in (bone + rng.normal(0, 5, bone.shape), air + rng.normal(0, 0.5, air.shape)):
        reasons = LIMITS.reasons(figures(x.astype(np.float32))[0], {})
        assert any(r.startswith("outside the training distribution: ") for r in reasons)


def test_far_more_noise_is_low_quality_and_told_first() -> None:
    reasons = LIMITS.reasons(figures(patches(1, 4, noise=400))[0], {})
    assert reasons[0] == "low quality: more noise than any image that the model was tested on"


def test_an_embedding_far_from_all_of_the_reference_is_outside() -> None:
    rng = np.random.default_rng(5)
    assert not any(LIMITS.far(row) for row in rng.normal(size=(2000, 3)))
    assert LIMITS.far(np.array([30.0, 0, 0]))
    assert not LIMITS.far(np.array([np.nan, 0, 0]))  # no embedding was given: nothing is known


def photographs(colour: float, n: int = 100) -> np.ndarray:
    """Bytes whose channels differ by this share, with each its own light."""
    rng = np.random.default_rng(8)
    grey = rng.uniform(60, 140, (n, 1, 1, 1)) + rng.normal(0, 8, (n, 1, *PHOTO.input.shape[1:]))
    return np.clip(grey * np.array([1 + colour, 1, 1 - colour])[:, None, None] + 0.5, 0, 255).astype(np.uint8)


PHOTO = DiseaseSpec.from_toml(CATALOGUE / "retinopathy-screening.toml")


def test_a_grey_picture_is_outside_where_every_tested_one_has_colour_and_inside_where_some_have_none() -> None:
    def learned(x: np.ndarray) -> Limits:
        return Limits.learn(PHOTO, pd.DataFrame(image_quality.figures(x, PHOTO)))

    def reasons(limits: Limits, x: np.ndarray) -> list[str]:
        table = image_quality.figures(x, PHOTO)
        return limits.reasons({name: float(v[0]) for name, v in table.items()}, {})

    pale, grey = photographs(0.2), photographs(0.0)
    assert reasons(learned(pale), grey) == ["outside the training distribution: no colour, which every image has that the model was tested on"]
    assert reasons(learned(pale), pale) == []
    assert reasons(learned(np.concatenate([pale, grey[:1]])), grey) == []


def test_acquisition_limits_of_the_spec_name_the_parameter_and_what_is_allowed() -> None:
    spec = lung_nodule(abstain={"acquisition": {"acq_slice_thickness_mm": (0.4, 3)}})
    limits = Limits.learn(spec, reference())
    (inside,) = figures(patches(1, 6))
    assert limits.reasons(inside, {"acq_slice_thickness_mm": 5.0}) == ["acquisition outside the spec: slice_thickness_mm 5, allowed 0.4 to 3"]
    assert limits.reasons(inside, {"acq_slice_thickness_mm": 3.0}) == []
    assert limits.reasons(inside, {}) == []


def test_a_small_reference_and_a_switch_that_is_off_judge_nothing() -> None:
    (noisy,) = figures(patches(1, 4, noise=400))
    assert Limits.learn(SPEC, reference(LEAST - 1)).reasons(noisy, {}) == []
    assert Limits.learn(lung_nodule(abstain={"outside": 0}), reference()).reasons(noisy, {}) == []
