"""Large samples are looked at through blocks on an even grid; what is seen there is what is in the sample."""

from __future__ import annotations

import numpy as np
import pytest

from components.core import image_quality
from components.core.filtered import ALIGNED, MOST_VALUES, blocks
from components.core.spec import DiseaseSpec
from pipelines import catalog


def spec(*shape: int) -> DiseaseSpec:
    raw = catalog.load("skin-lesion").model_dump()
    raw["input"]["shape"] = shape
    return DiseaseSpec.model_validate(raw)


@pytest.mark.parametrize(
    ("shape", "axes", "seen"),
    [
        ((3, 224, 224), 2, (16, 3, 16, 16)),  # 4 x 4
        ((1, 512, 512), 2, (64, 1, 16, 16)),  # 8 x 8
        ((1, 64, 64, 64), 3, (27, 1, 8, 8, 8)),  # 3 x 3 x 3
        ((2, 100_000), 1, (35, 2, 256)),
        ((3, 12, 9000), 2, (4, 3, 12, 16)),  # lower than a block; 4 columns of them
    ],
)
def test_blocks_are_even_aligned_and_bounded(shape: tuple[int, ...], axes: int, seen: tuple[int, ...]):
    x = np.arange(2 * np.prod(shape), dtype=np.int64).reshape(2, *shape)
    found = blocks(x, axes)
    assert found.shape == (2 * seen[0], *seen[1:])
    assert found[: seen[0]].size <= MOST_VALUES
    corners = found.reshape(len(found), -1)[:, 0].astype(int)
    places = np.array(np.unravel_index(corners, x.shape))
    assert places[0].tolist() == [0] * seen[0] + [1] * seen[0]  # a sample's blocks stay together
    assert not (places[2:] % ALIGNED).any()
    for row, size, edge in zip(places[2:], shape[1:], seen[2:], strict=True):
        assert row.min() == 0
        assert row.max() in range(size - edge - ALIGNED + 1, size - edge + 1)  # from one end to the other
    for block, (n, c, *at) in zip(found, places.T, strict=True):
        assert c == 0
        np.testing.assert_array_equal(block, x[(n, slice(None), *(slice(a, a + e) for a, e in zip(at, seen[2:], strict=True)))])


def test_every_sample_of_the_catalogue_is_looked_at_whole():
    for name in catalog.names():
        of = catalog.load(name).input
        x = np.zeros((2, *of.shape), np.uint8)
        assert blocks(x, {"image": 2, "tiles": 2, "volume": 3, "window": 1, "table": 0}[of.layout]) is x, name


def test_figures_of_blocks_are_those_of_the_sample():
    """White noise of known level, and the same in 8-pixel squares, as strong compression leaves it."""
    rng = np.random.default_rng(0)
    noise = np.clip(rng.normal(100, 10, (3, 3, 224, 224)), 0, 255).astype(np.float32)
    squares = np.repeat(np.repeat(rng.normal(100, 10, (3, 3, 28, 28)), 8, 2), 8, 3).astype(np.float32) + noise * 0.2
    found = image_quality.figures(noise, spec(3, 224, 224))
    assert found["mean"] == pytest.approx(100, abs=0.4)
    assert found["sd"] == pytest.approx(10, rel=0.03)
    assert found["noise_sd"] == pytest.approx(10, rel=0.06)
    assert found["fineness"] == pytest.approx(0, abs=0.05)
    assert found["blockiness"] == pytest.approx(0, abs=0.05)
    assert image_quality.figures(squares, spec(3, 224, 224))["blockiness"].min() > 3
    for n in range(3):
        alone = image_quality.figures(noise[n : n + 1], spec(3, 224, 224))
        assert {name: values[0] for name, values in alone.items()} == {name: values[n] for name, values in found.items()}


def test_a_value_that_is_not_finite_is_seen_wherever_it_is():
    from components.core.devices import ProfileAccumulator
    from components.core.errors import DataError

    x = np.full((1, 3, 224, 224), 9, np.float32)
    x[0, 1, 20, 20] = np.nan  # between two blocks
    assert np.isfinite(blocks(x, 2)).all()
    with pytest.raises(DataError, match="not finite"):
        ProfileAccumulator(spec(3, 224, 224)).add(x)
