"""Figures of image quality have known values, and each change moves the figure that is made for it."""

from __future__ import annotations

import numpy as np
import pytest

from components.core import acquisition_changes, image_quality
from components.core.spec import DiseaseSpec
from pipelines import catalog


@pytest.fixture(scope="module")
def colour() -> DiseaseSpec:
    return catalog.load("skin-lesion")


@pytest.fixture(scope="module")
def pictures(colour: DiseaseSpec) -> np.ndarray:
    """Smooth fields with some texture, all channels alike, in the middle of the range."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    _, height, width = colour.input.shape
    field = gaussian_filter(rng.standard_normal((24, height, width)), (0, 4, 4)) * 8 + gaussian_filter(
        rng.standard_normal((24, height, width)), (0, 1, 1)
    )
    return np.repeat((128 + 25 * field / field.std()).astype(np.float32)[:, None], 3, axis=1)


def test_white_noise_is_as_fine_as_can_be_and_blur_is_not(colour: DiseaseSpec) -> None:
    noise = np.random.default_rng(1).normal(128, 20, (4, *colour.input.shape)).astype(np.float32)
    found = image_quality.figures(noise, colour)
    assert found["fineness"] == pytest.approx(np.zeros(4), abs=0.05)
    assert found["blockiness"] == pytest.approx(np.zeros(4), abs=0.05)
    assert image_quality.figures(acquisition_changes.changed("blur", noise, 0.5, np.random.default_rng(0), colour), colour)["fineness"].max() < -0.5


def test_channels_are_compared_in_octaves_and_clipping_is_counted(colour: DiseaseSpec) -> None:
    x = np.full((1, *colour.input.shape), 50, np.float32)
    x[:, 0], x[:, 2] = 100, 25
    x[:, 1, :2], x[:, 1, 2] = 0, 255
    found = image_quality.figures(x, colour)
    green = x[:, 1].mean()
    assert found["red_green"][0] == pytest.approx(np.log2(100 / green), rel=1e-4)
    assert found["blue_green"][0] == pytest.approx(np.log2(25 / green), rel=1e-4)
    rows = colour.input.shape[1]
    assert found["clipped_low"][0] == pytest.approx(2 / (3 * rows), rel=1e-4)
    assert found["clipped_high"][0] == pytest.approx(1 / (3 * rows), rel=1e-4)


def test_a_constant_image_and_every_layout_have_finite_figures() -> None:
    for name in catalog.names():
        spec = catalog.load(name)
        if spec.input.layout == "table":
            continue
        x = np.full((2, *spec.input.shape), np.mean(spec.input.range), np.float32)
        x[1] += np.random.default_rng(0).normal(0, 1, spec.input.shape).astype(np.float32)
        found = image_quality.figures(x, spec)
        assert tuple(found) == image_quality.names(spec)
        assert all(np.isfinite(values).all() for values in found.values()), name


@pytest.mark.parametrize(
    ("cause", "figure", "sign"),
    [
        ("gain", "sd", 1), ("offset", "p50", 1), ("noise", "noise_sd", 1), ("blur", "fineness", -1), ("sharpening", "sharpness", 1),
        ("gamma", "p50", -1), ("compression", "blockiness", 1), ("stain", "blue_green", -1), ("saturation", "p99", -1),
    ],
)  # fmt: skip
def test_a_change_moves_its_figure_more_the_stronger_it_is(cause: str, figure: str, sign: int, pictures: np.ndarray, colour: DiseaseSpec) -> None:
    means = [float(image_quality.figures(pictures, colour)[figure].mean())]
    for strength in acquisition_changes.STRENGTHS:
        y = acquisition_changes.changed(cause, pictures, strength, np.random.default_rng(0), colour)
        assert y.shape == pictures.shape
        means.append(float(image_quality.figures(y, colour)[figure].mean()))
    assert (np.diff(means) * sign > 0).all(), means


def test_simulations_pair_every_sample_with_itself(pictures: np.ndarray, colour: DiseaseSpec) -> None:
    columns = acquisition_changes.simulated(pictures[:3], colour)
    assert {len(values) for values in columns.values()} == {len(columns["cause"])}
    assert set(columns["cause"]) == {"", *acquisition_changes.possible(colour)}
    assert columns["mean"][:3] == image_quality.figures(pictures[:3], colour)["mean"].tolist()
    assert acquisition_changes.simulated(pictures[:3], colour) == columns
    assert acquisition_changes.possible(catalog.load("breast-cytology")) == ()
    assert "stain" not in acquisition_changes.possible(catalog.load("lung-nodule"))
