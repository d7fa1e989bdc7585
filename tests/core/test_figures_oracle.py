"""The figures of samples are those of a plain double-precision implementation, whatever the layout, and each sample's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from components.core import image_quality
from components.core.devices import sample_figures
from components.core.filtered import SPATIAL_AXES, Filtered, blocks, mean_square
from components.core.spec import DiseaseSpec
from pipelines import catalog

VOLUME: dict[str, Any] = {"layout": "volume", "spacing_mm": (2, 1, 1)}
WINDOW: dict[str, Any] = {"layout": "window", "modality": "sensor", "unit": "mg", "dtype": "float32", "spacing_mm": None, "rate_hz": 64}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("skin-lesion", {}), ("skin-lesion", {"shape": (3, 224, 224)}), ("skin-lesion", {"shape": (3, 17, 31)}), ("breast-metastasis", {}),
    ("lung-nodule", {}), ("lung-nodule", {"shape": (1, 300, 260)}), ("lung-nodule", {"shape": (1, 9, 2)}), ("lung-nodule", {"shape": (1, 1, 9)}),
    ("lung-nodule", {**VOLUME, "shape": (1, 13, 16, 18)}), ("lung-nodule", {**VOLUME, "shape": (1, 40, 64, 48)}),
    ("parkinson-fog", {}), ("lung-nodule", {**WINDOW, "shape": (5, 4000)}), ("lung-nodule", {**WINDOW, "shape": (3, 5)}), ("breast-cytology", {}),
]  # fmt: skip


def spec_of(name: str, changes: dict[str, Any]) -> DiseaseSpec:
    raw = catalog.load(name).model_dump()
    raw["input"].update(changes)
    if raw["input"]["layout"] == "window":
        raw["input"]["window_s"] = raw["input"]["shape"][1] / raw["input"]["rate_hz"]
    return DiseaseSpec.model_validate(raw)


def samples(n: int, spec: DiseaseSpec, seed: int) -> NDArray[Any]:
    """Noise on waves, clipped at both ends of the range, of the spec's dtype; the last of several is constant."""
    rng = np.random.default_rng(seed)
    low, high = spec.input.range
    waves = sum(np.sin(0.3 * k + rng.uniform(0, 6)) for k in np.indices(spec.input.shape))
    x = low + (high - low) * (0.45 + 0.2 * waves + rng.normal(0, 0.1, (n, *spec.input.shape)))
    if n > 1:
        x[-1] = low + 0.3 * (high - low)
    return np.clip(x, low, high).astype(spec.input.dtype)


def plain(x: NDArray[Any], spec: DiseaseSpec) -> dict[str, float]:
    """Of one sample (1, *input.shape), its blocks one by one."""
    axes = SPATIAL_AXES[spec.input.layout]
    y = blocks(x, axes).astype(np.float64)
    space = range(y.ndim - axes, y.ndim)
    low, high = spec.input.range
    edge = 0.005 * (high - low)
    smooth = fine = y
    near = far = 0.0
    ratios = []
    slope = np.zeros(y[(..., *(slice(0, max(1, size - 1)) for size in y.shape[y.ndim - axes :]))].shape)
    for axis in space:
        smooth = correlate1d(smooth, np.array([1, 4, 6, 4, 1]) / 16, axis=axis, mode="reflect")
        step = np.abs(np.diff(y, axis=axis))
        if y.shape[axis] > 1:
            slope += step[tuple(slice(0, size) for size in slope.shape)] ** 2
        if y.shape[axis] > 2:
            fine = np.diff(fine, 2, axis=axis) / np.sqrt(6)
            near += (step**2).mean()
            far += ((np.take(y, range(2, y.shape[axis]), axis) - np.take(y, range(y.shape[axis] - 2), axis)) ** 2).mean()
        at_border = np.arange(1, y.shape[axis]) % 8 == 0
        if at_border.any() and not at_border.all():
            inside = np.compress(~at_border, step, axis).mean()
            ratios.append(np.compress(at_border, step, axis).mean() / inside - 1 if inside > 0 else 0.0)
    p01, p50, p99 = np.quantile(smooth, (0.01, 0.5, 0.99), method="inverted_cdf")
    out = {"mean": y.mean(), "sd": y.std(), "p01": p01, "p50": p50, "p99": p99}
    out["noise_sd"] = 1.482602218505602 * np.median(np.abs(fine)) if axes else 0.0
    out["sharpness"] = np.sqrt(slope).mean() / y.std() if axes and y.std() > 0 else 0.0
    out["skewness"] = (p99 + p01 - 2 * p50) / (p99 - p01) if p99 > p01 else 0.0
    out["clipped_low"], out["clipped_high"] = (y <= low + edge).mean(), (y >= high - edge).mean()
    out["fineness"] = np.log2(near / far) if near > 0 and far > 0 else 0.0
    out["blockiness"] = np.mean(ratios) if ratios else 0.0
    if spec.input.layout in ("image", "tiles") and spec.input.shape[0] == 3:
        red, green, blue = (max(y[:, c].mean() - low, edge) for c in range(3))
        out["red_green"], out["blue_green"] = np.log2(red / green), np.log2(blue / green)
    return {name: float(out[name]) for name in image_quality.names(spec)}


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize(("name", "changes"), CASES)
def test_figures_are_those_of_plain_double_precision(name: str, changes: dict[str, Any], n: int):
    spec = spec_of(name, changes)
    x = samples(n, spec, seed=n)
    found, width = image_quality.figures(x, spec), spec.input.range[1] - spec.input.range[0]
    for row in range(n):
        for figure, value in plain(x[row : row + 1], spec).items():
            # Levels are known to float32's digits of the range; what is a difference of two numbers near 1, to a few of its own.
            least = 1e-6 * width if figure in ("mean", "sd", "p01", "p50", "p99", "noise_sd") else 2e-5
            assert found[figure][row] == pytest.approx(value, rel=2e-5, abs=least), (figure, row)


@pytest.mark.parametrize(("name", "changes"), CASES)
def test_a_sample_has_the_same_figures_alone_and_in_a_batch(name: str, changes: dict[str, Any]):
    """To the last bit, and before they are rounded; however its memory is ordered."""
    spec = spec_of(name, changes)
    x = samples(7, spec, seed=0)
    of, together = Filtered(x, spec), image_quality.figures(x, spec)
    for row in range(7):
        one = x[row : row + 1]
        alone = Filtered(one, spec)
        for part in ("y", "means", "smooth", "fine", "slope"):
            assert np.array_equal(getattr(alone, part)[0], getattr(of, part)[row]), part
        assert mean_square(alone.y)[0] == mean_square(of.y)[row]
        for seen in (one, np.moveaxis(np.ascontiguousarray(np.moveaxis(one, 1, -1)), -1, 1)):
            assert {k: v.tolist() for k, v in image_quality.figures(seen, spec).items()} == {k: [v[row]] for k, v in together.items()}


def test_a_faint_pattern_on_a_high_level_keeps_its_spread():
    """Air at -1000 HU with a spread of 1, not of whole numbers."""
    spec = spec_of("lung-nodule", {"dtype": "float32"})
    x = np.random.default_rng(0).normal(-1000, 1, (3, 1, 52, 52)).astype(np.float32)
    found = sample_figures(x, spec)
    assert found["sd"] == pytest.approx(x.reshape(3, -1).std(1, dtype=np.float64), rel=1e-5)
    assert found["mean"] == pytest.approx(x.reshape(3, -1).mean(1, dtype=np.float64), rel=1e-5)
    assert sample_figures(np.full((2, 1, 52, 52), -999.9, np.float32), spec)["sd"].tolist() == [0, 0]
