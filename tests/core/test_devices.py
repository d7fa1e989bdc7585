"""Device profiles and the one normalisation path: what was done to intensities is measured and undone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from components.core.devices import DeviceProfile, ProfileAccumulator, match, normalise, pooled, sample_figures
from components.core.errors import DataError
from components.core.spec import DiseaseSpec

SPEC = DiseaseSpec.from_toml(Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml")


def spec(*, method: str = "device", **values: Any) -> DiseaseSpec:
    raw = json.loads(SPEC.to_json())
    raw["normalise"]["method"] = method
    raw["input"].update(values)
    return DiseaseSpec.from_json(json.dumps(raw))


def scenes(n: int, *, seed: int, noise: float = 8.0) -> NDArray[np.float32]:
    """Dark ground with a bright disc of random place and size, and white noise: (n, 1, 52, 52) HU."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((52, 52))
    at, radius = rng.uniform(15, 37, (n, 2, 1, 1)), rng.uniform(8, 12, (n, 1, 1))
    disc = np.clip(radius - np.hypot(y - at[:, 0], x - at[:, 1]) + 0.5, 0, 1)
    return (-850 + 880 * disc + rng.normal(0, noise, (n, 52, 52))).astype(np.float32)[:, None]


def profile(x: NDArray[Any], of: DiseaseSpec = SPEC, key: str = "d") -> DeviceProfile:
    accumulator = ProfileAccumulator(of)
    accumulator.add(x)
    return accumulator.finish(key, "1")


def test_figures_of_known_values():
    """Mean, spread and noise of white noise about -300 HU, within the histogram's step."""
    p = profile(np.random.default_rng(0).normal(-300, 50, (100, 1, 52, 52)))
    assert p.n == 100
    assert p.mean == pytest.approx(-300, abs=1)
    assert p.sd == pytest.approx(50, rel=0.01)
    assert p.noise_sd == pytest.approx(50, rel=0.02)
    assert p.p50 == pytest.approx(-300, abs=1)


def test_noise_hardly_moves_the_percentiles():
    calm, noisy = profile(scenes(80, seed=1, noise=2)), profile(scenes(80, seed=1, noise=60))
    assert noisy.sd > calm.sd
    assert noisy.p50 == pytest.approx(calm.p50, abs=6)
    assert noisy.p99 - noisy.p50 == pytest.approx(calm.p99 - calm.p50, rel=0.06)


def test_any_order_of_adding_and_merging_gives_the_same_profile():
    x = scenes(60, seed=2)
    whole = profile(x)
    pieces = []
    for rows in np.array_split(np.random.default_rng(3).permutation(60), 7):
        piece = ProfileAccumulator(SPEC)
        for row in rows:
            piece.add(x[row : row + 1])
        pieces.append(piece)
    for order in (range(7), reversed(range(7))):
        total = ProfileAccumulator(SPEC)
        for n in order:
            total.merge(pieces[n])
        assert total.finish("d", "1") == whole
    assert total.finish("d", "1").version == whole.version


def test_profiles_of_different_specs_do_not_merge():
    with pytest.raises(DataError, match="different specs"):
        ProfileAccumulator(SPEC).merge(ProfileAccumulator(spec(range=[-500, 500])))


def test_a_profile_of_nothing_is_refused():
    with pytest.raises(DataError, match="no samples"):
        ProfileAccumulator(SPEC).finish("d", "")


def test_values_that_are_not_finite_are_refused():
    x = scenes(2, seed=4)
    x[1, 0, 3, 3] = np.nan
    with pytest.raises(DataError, match=r"not finite.*got 1 of"):
        profile(x)
    with pytest.raises(DataError, match="not finite"):
        normalise(x, SPEC, None, profile(scenes(2, seed=4)))


def test_shift_and_scale_of_a_device_are_recovered():
    """A device that reports 0.8 x + 60 is brought back within a hundredth, measured on other samples than the reference's."""
    reference = profile(scenes(200, seed=5))
    own = scenes(200, seed=6) * np.float32(0.8) + np.float32(60)
    scale, shift, _ = match(profile(own), reference, axes=2)
    assert scale == pytest.approx(1 / 0.8, rel=0.01)
    assert shift == pytest.approx(-60 / 0.8, abs=10)
    expected = normalise(scenes(200, seed=6), spec(method="range"), None, None)
    assert np.abs(normalise(own, SPEC, profile(own), reference) - expected).mean() < 0.005


def test_a_noisier_device_is_smoothed_to_the_reference():
    reference, noisy = profile(scenes(100, seed=7, noise=15)), scenes(100, seed=8, noise=60)
    before = profile(noisy)
    after = profile(normalise(noisy, SPEC, before, reference) * 1400 - 1000)
    assert before.noise_sd == pytest.approx(60, rel=0.1)
    assert after.noise_sd == pytest.approx(15, rel=0.25)  # the lower part of the noise saturates at -1000 HU


def test_a_calmer_device_is_not_smoothed_and_gets_no_noise():
    reference, calm = profile(scenes(100, seed=9, noise=40)), scenes(100, seed=10, noise=5)
    scale, shift, sigma = match(profile(calm), reference, axes=2)
    assert sigma == 0
    y = normalise(calm, SPEC, profile(calm), reference)
    assert np.allclose(y, np.clip((calm * scale + shift + 1000) / 1400, 0, 1), atol=1e-5)


def test_range_maps_known_tissue():
    """-1000 HU is 0, 400 HU is 1, -300 HU lies in the middle; beyond, values saturate."""
    x = np.full((1, 1, 52, 52), -300, np.int16)
    x[0, 0, 0, :4] = (-2000, -1000, 400, 3000)
    y = normalise(x, spec(method="range"), None, None)
    assert y.dtype == np.float32
    assert y[0, 0, 0, :5].tolist() == [0, 0, 1, 1, 0.5]


def test_method_none_leaves_values_alone():
    x = scenes(3, seed=11)
    assert np.array_equal(normalise(x, spec(method="none"), None, None), x)


def test_no_profile_stands_for_the_reference():
    x, reference = scenes(3, seed=12), profile(scenes(50, seed=13))
    expected = normalise(x, spec(method="range"), None, None)
    assert np.array_equal(normalise(x, SPEC, None, reference), expected)
    assert np.array_equal(normalise(x, SPEC, reference, reference), expected)


def test_each_row_gets_its_own_profile():
    x, reference = scenes(6, seed=14), profile(scenes(50, seed=15))
    a, b = (profile(scenes(50, seed=s, noise=n) * np.float32(g), key=k) for s, n, g, k in ((16, 40.0, 0.9, "a"), (17, 5.0, 1.1, "b")))
    rows: list[DeviceProfile | None] = [a, None, b, a, b, None]
    together = normalise(x, SPEC, rows, reference)
    for n, one in enumerate(rows):
        assert np.array_equal(together[n : n + 1], normalise(x[n : n + 1], SPEC, one, reference))


def test_the_input_is_not_changed():
    x = scenes(2, seed=18)
    kept = x.copy()
    normalise(x, SPEC, profile(scenes(50, seed=19)), profile(scenes(50, seed=20)))
    assert np.array_equal(x, kept)


def test_wrong_calls_are_refused():
    x, p = scenes(2, seed=21), profile(scenes(9, seed=22))
    with pytest.raises(DataError, match="no reference profile"):
        normalise(x, SPEC, p, None)
    with pytest.raises(DataError, match="differ in number"):
        normalise(x, SPEC, [p], p)
    with pytest.raises(DataError, match="another shape"):
        normalise(x[..., :40], SPEC, p, p)


def test_version_survives_float32_and_changes_with_any_value():
    p = profile(scenes(40, seed=23))
    stored = {name: float(np.float32(value)) if isinstance(value, float) else value for name, value in p.to_dict().items()}
    assert DeviceProfile.from_dict(stored | {"event_timestamp": "of the store"}).version == p.version
    changes: dict[str, Any] = {
        "device_key": "e",
        "software": "2",
        "n": 41,
        "mean": p.mean + 1,
        "noise_sd": p.noise_sd * 1.01,
        "sharpness": p.sharpness * 1.01,
    }
    versions = {p.version, *(replace(p, **{name: value}).version for name, value in changes.items())}
    assert len(versions) == 1 + len(changes)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_an_incomplete_profile_is_refused(value: float | None):
    with pytest.raises(DataError, match="noise_sd"):
        DeviceProfile.from_dict(profile(scenes(4, seed=24)).to_dict() | {"noise_sd": value})


def test_the_pool_weighs_devices_by_their_samples():
    a = DeviceProfile("a", "", 30, -800, 200, -900, -850, 50, 10, 0.2)
    b = DeviceProfile("b", "", 10, -700, 100, -800, -750, 10, 30, 0.4)
    pool = pooled([a, b])
    assert (pool.n, pool.mean, pool.p50, pool.p99, pool.noise_sd, pool.sharpness) == (40, -775, -825, 40, 15, 0.25)
    assert pool.sd == pytest.approx(np.sqrt((30 * 200**2 + 10 * 100**2) / 40), rel=1e-5)
    assert pooled([b, a]) == pool
    with pytest.raises(DataError, match="no device profiles"):
        pooled([])


@pytest.mark.parametrize(
    ("layout", "shape", "extra"),
    [
        ("volume", [1, 12, 16, 16], {"spacing_mm": [2, 1, 1]}),
        ("window", [3, 256], {"modality": "sensor", "unit": "mg", "spacing_mm": None, "rate_hz": 64, "window_s": 4}),
        ("table", [9], {"modality": "tabular", "unit": "1", "spacing_mm": None}),
    ],
)
def test_other_layouts_have_profiles_too(layout: str, shape: list[int], extra: dict[str, Any]):
    """Noise is measured along the axes that a layout has; a table has none, so nothing is smoothed."""
    of = spec(layout=layout, shape=shape, dtype="float32", range=[-4, 4], **extra)
    x = np.random.default_rng(25).normal(0, 1, (200, *shape))
    p, loud = profile(x, of), profile(x * 2, of)
    assert p.noise_sd == (0 if layout == "table" else pytest.approx(1, rel=0.05))
    y = normalise(x * 2, of, loud, p)
    assert y.shape == x.shape
    if layout == "table":
        assert np.allclose(y, np.clip((x + 4) / 8, 0, 1), atol=0.02)


def test_figures_of_one_sample_are_its_profile():
    x = scenes(3, seed=26)
    figures, step = sample_figures(x, SPEC), 2800 / 8192
    for n in range(3):
        p = profile(x[n : n + 1])
        for name in ("mean", "sd", "p01", "p50", "p99", "noise_sd"):
            assert figures[name][n] == pytest.approx(getattr(p, name), abs=2 * step)
        assert figures["sharpness"][n] == pytest.approx(p.sharpness, rel=0.01)


@pytest.mark.parametrize("size", [51, 52])
def test_percentiles_and_noise_are_numpys_quantile_and_median(size: int):
    """They are read from sorted values, for speed; odd and even numbers of them."""
    from components.core.filtered import Filtered

    of = spec(shape=[1, size, size])
    x = np.random.default_rng(0).normal(-400, 200, (5, 1, size, size)).astype(np.float32)
    found, seen = sample_figures(x, of), Filtered(x, of)
    wanted = np.quantile(seen.smooth.reshape(5, -1), [0.01, 0.5, 0.99], axis=1, method="inverted_cdf")
    noise = 1.482602218505602 * np.median(seen.fine.reshape(5, -1), axis=1)
    for name, values in zip(("p01", "p50", "p99", "noise_sd"), (*wanted, noise), strict=True):
        assert found[name].tolist() == [float(f"{v:.6g}") for v in values], name
