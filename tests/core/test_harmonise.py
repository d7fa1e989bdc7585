"""Methods without a profile: what a device did is undone from the sample alone, exactly where the physics allows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from components.core.devices import normalise
from components.core.errors import SpecError
from components.core.harmonise import harmonised, names, nyul, stain_macenko
from components.core.spec import DiseaseSpec

DISEASES = Path(__file__).parents[2] / "pipelines" / "diseases"
Floats = NDArray[np.float32]


def photographs(n: int = 3, seed: int = 0) -> Floats:
    """(n, 3, 48, 48) in [0.1, 0.6]: smooth fields, each channel its own."""
    from scipy.ndimage import gaussian_filter

    x = gaussian_filter(np.random.default_rng(seed).normal(size=(n, 3, 48, 48)), (0, 0, 3, 3))
    return (0.35 + 0.25 * x / np.abs(x).max()).astype(np.float32)


def windows(n: int = 4, seed: int = 0) -> Floats:
    """(n, 9, 200): gravity along the second axis of each sensor, shaking about it, as [0, 1] over -4 to 4 g."""
    mg = np.random.default_rng(seed).normal(0, 150, (n, 9, 200))
    mg[:, 1::3] += 1000
    return (mg / 8000 + 0.5).astype(np.float32)


SHAPES: dict[int, Floats] = {1: windows(), 2: photographs(), 3: photographs(2)[:, :1].reshape(2, 1, 6, 8, 48)}


@pytest.mark.parametrize("name", names())
def test_every_method_gives_finite_values_and_treats_samples_apart(name: str) -> None:
    """Samples together or alone, and a constant one, give the same, finite, in the shape they had."""
    for axes, x in SHAPES.items():
        try:
            together = harmonised(x, [name], axes=axes, where="test")
        except SpecError:
            continue
        assert together.shape == x.shape
        assert np.isfinite(together).all()
        assert np.array_equal(harmonised(x[1:2], [name], axes=axes, where="test"), together[1:2])
        for value in (0.0, 0.5, 1.0):
            assert np.isfinite(harmonised(np.full_like(x[:1], value), [name], axes=axes, where="test")).all()
        assert harmonised(x[:0], [name], axes=axes, where="test").shape == x[:0].shape


@pytest.mark.parametrize("name", ["grey-world", "illumination", "log-contrast"])
def test_a_gain_of_each_channel_is_undone(name: str) -> None:
    """A lamp of another colour, 0.6 to 1.3 of the light in red, green and blue, leaves no trace."""
    x = photographs()
    lamp = np.array([1.3, 1.0, 0.6], dtype=np.float32)[:, None, None]
    assert np.allclose(harmonised(x * lamp, [name], axes=2, where="test"), harmonised(x, [name], axes=2, where="test"), atol=1e-4)


@pytest.mark.parametrize("name", ["illumination", "log-contrast"])
def test_a_gamma_is_undone(name: str) -> None:
    x = photographs()
    assert np.allclose(harmonised(x**1.4, [name], axes=2, where="test"), harmonised(x, [name], axes=2, where="test"), atol=1e-4)


def test_uneven_light_is_flattened() -> None:
    """Light that falls to 60 % at one side moves the picture by a tenth of what it moved before."""
    x = photographs()
    slope = np.linspace(0.6, 1.0, 48, dtype=np.float32)
    plain, flat = ((lambda y: y), (lambda y: harmonised(y, ["illumination"], axes=2, where="test")))

    def moved(prepared: Any) -> float:
        return float(np.abs(prepared(x * slope) - prepared(x)).mean() / prepared(x).std())

    assert moved(flat) < 0.25 * moved(plain)


def test_nyul_moves_landmarks_to_the_standard_ones() -> None:
    """Percentiles of the foreground land on `STANDARD` within a grey level, for pictures and for volumes."""
    for axes in (2, 3):
        x = SHAPES[axes]
        y = harmonised(x, ["nyul"], axes=axes, where="test")
        for before, after in zip(x.reshape(-1, x[0, 0].size), y.reshape(-1, x[0, 0].size), strict=True):
            found = np.percentile(after[before > before.mean()], nyul.PERCENTILES)
            assert np.allclose(found, nyul.STANDARD, atol=1 / 255)


def test_nyul_is_invariant_under_gain_and_offset_and_keeps_order() -> None:
    x = SHAPES[3]
    y = harmonised(x, ["nyul"], axes=3, where="test")
    assert np.allclose(harmonised(1.7 * x + 0.2, ["nyul"], axes=3, where="test"), y, atol=1e-4)
    order = np.argsort(x[0].ravel())
    assert (np.diff(y[0].ravel()[order]) >= -1e-6).all()


def test_nyul_standard_is_the_normal_distribution() -> None:
    from scipy.stats import norm

    assert np.allclose(nyul.STANDARD, 0.5585 + 0.1111 * norm.ppf(np.array(nyul.PERCENTILES) / 100), atol=1e-3)


def test_a_sensors_gain_is_undone_exactly() -> None:
    """Half the gain, and its inverse: the same window comes out. A dead sensor is left alone."""
    x = windows()
    half = (x - 0.5) * np.float32(0.5) + np.float32(0.5)
    assert np.allclose(harmonised(half, ["sensor-gain"], axes=1, where="test"), harmonised(x, ["sensor-gain"], axes=1, where="test"), atol=1e-6)
    still = np.full((1, 9, 200), 0.5, np.float32)
    assert np.array_equal(harmonised(still, ["sensor-gain"], axes=1, where="test"), still)


def tile(dyes: NDArray[np.floating], *, seed: int = 1, lamp: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Floats:
    """(1, 3, 64, 64) of two dyes (3, 2): a quarter nuclei, half eosin alone, a quarter glass."""
    rng = np.random.default_rng(seed)
    amount = np.zeros((2, 64 * 64))
    place = rng.permutation(64 * 64)
    amount[0, place[:1024]] = rng.uniform(0.8, 1.8, 1024)
    amount[1, place[:1024]] = rng.uniform(0, 0.1, 1024)
    amount[1, place[1024:3072]] = rng.uniform(0.5, 1.2, 2048)
    return (np.exp(-dyes @ amount) * np.array(lamp)[:, None]).reshape(1, 3, 64, 64).astype(np.float32)


def test_stain_normalisation_recovers_a_simulated_stain_change() -> None:
    """Another laboratory's dyes under another lamp: nine tenths of the difference are gone."""
    ours = np.array([[0.65, 0.07], [0.70, 0.99], [0.29, 0.11]])
    theirs = np.array([[0.55, 0.20], [0.76, 0.90], [0.45, 0.35]])
    a, b = tile(ours), tile(theirs, lamp=(0.95, 0.9, 0.97))
    one, two = (harmonised(t, ["stain-macenko"], axes=2, where="test") for t in (a, b))
    assert np.abs(one - two).mean() < 0.1 * np.abs(a - b).mean()


def test_macenko_finds_the_dyes_that_monai_finds() -> None:
    """Against MONAI's `ExtractHEStains` where every channel absorbs: the directions agree within two hundredths, in either order."""
    pytest.importorskip("monai")
    from monai.apps.pathology.transforms.stain.array import ExtractHEStains

    x = tile(np.array([[0.65, 0.35], [0.70, 1.28], [0.29, 0.89]]))
    image = np.moveaxis(np.rint(x[0] * 255).astype(np.uint8), 0, 2)
    expected = ExtractHEStains(tli=255)(image)
    own = stain_macenko.found(-np.log(np.clip(np.moveaxis(image, 2, 0).reshape(3, -1) / 255, 1 / 255, 1)))
    assert own is not None
    assert np.allclose(own, expected[:, np.argsort(-expected[0])], atol=0.02)


def test_stain_statistics_undo_dye_strength_lamp_and_gamma() -> None:
    x = photographs()
    changed = (x * np.array([0.9, 0.8, 0.95], np.float32)[:, None, None]) ** np.array([1.2, 0.9, 1.1], np.float32)[:, None, None]
    one, two = (harmonised(t, ["stain-statistics"], axes=2, where="test") for t in (x, changed))
    assert np.allclose(one, two, atol=1e-4)


def spec_with(disease: str, **parts: Any) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(DISEASES / f"{disease}.toml").to_json())
    raw["normalise"] |= parts
    return DiseaseSpec.from_json(json.dumps(raw))


def test_normalise_applies_what_the_spec_names_and_nothing_else() -> None:
    """uint8 photographs under half the light: the same input with grey-world, another without."""
    x = np.random.default_rng(2).integers(60, 250, (2, 3, 64, 64)).astype(np.uint8) // 2 * 2
    with_it, without = spec_with("skin-lesion", per_sample=["grey-world"]), spec_with("skin-lesion", per_sample=[])
    assert np.allclose(normalise(x, with_it, None, None), normalise(x // 2, with_it, None, None), atol=1e-5)
    assert np.allclose(normalise(x, without, None, None), x / np.float32(255), atol=1e-6)


def test_methods_that_do_not_fit_are_refused() -> None:
    x = np.zeros((1, 3, 64, 64), np.uint8)
    with pytest.raises(SpecError, match=r"no such method.*'magic'.*grey-world"):
        normalise(x, spec_with("skin-lesion", per_sample=["magic"]), None, None)
    with pytest.raises(SpecError, match=r"does not fit.*2 axes, 3 channels.*1 axes"):
        normalise(x, spec_with("skin-lesion", per_sample=["sensor-gain"]), None, None)
    with pytest.raises(SpecError, match="cannot be harmonised"):
        normalise(x, spec_with("skin-lesion", method="none", per_sample=["grey-world"]), None, None)


@pytest.mark.parametrize("disease", sorted(p.stem for p in DISEASES.glob("*.toml")))
def test_every_disease_names_methods_that_fit_its_samples(disease: str) -> None:
    spec = DiseaseSpec.from_toml(DISEASES / f"{disease}.toml")
    low, high = spec.input.range
    x = np.random.default_rng(3).uniform(low, high, (1, *spec.input.shape)).astype(np.float32)
    reference = None
    if spec.normalise.method == "device":
        from components.core.devices import ProfileAccumulator

        accumulator = ProfileAccumulator(spec)
        accumulator.add(x)
        reference = accumulator.finish("d", "")
    y = normalise(x, spec, None, reference)
    assert 0 <= y.min() <= y.max() <= 1
