"""Heat-map features on drawn maps whose geometry is known."""

from __future__ import annotations

import numpy as np

from components.core.features import heatmap28
from components.core.features.heatmap28 import NAMES, features, heatmap


def drawn(*boxes: tuple[int, int, int, int], p: float = 0.8) -> np.ndarray:
    """A 20 x 20 map at 0.1; boxes (row, column, height, width) at `p`; two rows of glass at the top."""
    out = np.full((20, 20), 0.1)
    for row, column, height, width in boxes:
        out[row : row + height, column : column + width] = p
    out[:2] = np.nan
    return out


def named(one: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, features([one])[0].tolist(), strict=True))


def test_there_are_28_names():
    assert len(NAMES) == len(set(NAMES)) == 28


def test_a_rectangle_is_measured_exactly():
    f = named(drawn((5, 4, 3, 6)))
    assert f["region_count"] == 1
    assert f["largest_area"] == f["area_max"] == f["area_mean"] == 18
    assert f["perimeter_max"] == 2 * (3 + 6)
    assert f["extent_max"] == f["solidity_max"] == 1
    assert np.isclose(f["tumour_share"], 18 / 360)
    assert np.isclose(f["mean_prediction"], (18 * 0.8 + 342 * 0.1) / 360)
    assert np.isclose(f["top_prediction"], 0.8)
    assert np.isclose(f["region_prediction"], 0.8)
    assert f["above_90"] == 0
    # second moments of an a x b rectangle: a^2 / 12, b^2 / 12
    assert np.isclose(f["eccentricity_max"], np.sqrt(1 - 9 / 36))
    assert np.isclose(f["largest_axis"], 4 * np.sqrt(36 / 12))


def test_a_square_and_a_single_tile_have_no_eccentricity():
    assert np.isclose(named(drawn((5, 5, 4, 4)))["eccentricity_max"], 0)
    one = named(drawn((5, 5, 1, 1)))
    assert one["eccentricity_max"] == 0
    assert np.isclose(one["largest_axis"], 4 / np.sqrt(12))
    assert one["perimeter_max"] == 4


def test_an_l_fills_its_box_and_hull_as_computed_by_hand():
    """Three tiles of a 2 x 2 box: hull = box minus a corner triangle of 1/2."""
    f = named(drawn((5, 5, 2, 1), (6, 6, 1, 1)))
    assert f["region_count"] == 1
    assert np.isclose(f["extent_max"], 3 / 4)
    assert np.isclose(f["solidity_max"], 3 / 3.5)


def test_moments_over_regions():
    """Areas 1, 1 and 4: mean 2, variance 2, skew 1/sqrt(2)."""
    f = named(drawn((4, 4, 1, 1), (8, 8, 1, 1), (12, 12, 2, 2), p=0.95))
    assert f["region_count"] == 3
    assert f["area_mean"] == 2
    assert np.isclose(f["area_variance"], 2)
    assert np.isclose(f["area_skew"], 1 / np.sqrt(2))
    assert f["above_90"] == 6


def test_tiles_that_touch_by_a_corner_are_one_region():
    assert named(drawn((4, 4, 1, 1), (5, 5, 1, 1)))["region_count"] == 1


def test_no_region_and_no_tissue_are_zeros_not_nan():
    f = named(drawn())
    assert {f[name] for name in NAMES if name not in ("mean_prediction", "top_prediction")} == {0}
    assert np.isclose(f["mean_prediction"], 0.1)
    assert not features([np.full((3, 3), np.nan)]).any()


def test_the_threshold_decides_what_a_region_is():
    one = drawn((5, 5, 2, 2), p=0.4)
    assert features([one])[0][0] == 0
    assert features([one], threshold=0.3)[0][0] == 1


def test_tiles_go_back_onto_their_grid():
    places = [(100.0, 50.0), (148.0, 50.0), (244.02, 146.0)]
    found = heatmap(places, [0.1, 0.2, 0.3])
    assert found.shape == (3, 4)
    assert np.allclose([found[0, 0], found[0, 1], found[2, 3]], [0.1, 0.2, 0.3])
    assert np.isnan(found).sum() == 9
    assert heatmap28.pitch(np.array(places)) == 48
