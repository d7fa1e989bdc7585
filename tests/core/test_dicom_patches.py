"""Patches: where they lie, how they are resampled, what stands outside."""

from __future__ import annotations

import numpy as np
import pytest

from components.core.errors import DataError
from components.core.imaging.patches import cut_patch
from components.core.spec import Input
from tests.ingest.made import lung_nodule


def grid(**changes: object) -> Input:
    return lung_nodule(input=changes).input


def ramp(height: int = 200, width: int = 200) -> np.ndarray:
    """Every value tells its row and column: 10 * row + column - 1000."""
    rows, columns = np.mgrid[:height, :width]
    return (10 * rows + columns - 1000).astype(np.int16)


def test_patch_on_the_same_grid_is_a_window():
    """52 is even, so a centre between two pixels gives whole pixels."""
    patch = cut_patch(ramp(), centre_rc=(99.5, 49.5), pixel_mm=(0.7, 0.7), spec_input=grid())
    assert patch.shape == (1, 52, 52)
    assert patch.dtype == np.int16
    assert np.array_equal(patch[0], ramp()[74:126, 24:76])


@pytest.mark.parametrize("pixel_mm", [(0.7, 0.7), (0.5, 0.9), (0.35, 1.4)])
def test_a_plane_stays_a_plane_on_any_grid(pixel_mm: tuple[float, float]):
    """Linear interpolation is exact on a ramp; where the triangle is widened against aliasing, to a fiftieth of a pixel."""
    patch = cut_patch(ramp().astype(np.float32), centre_rc=(100, 100), pixel_mm=pixel_mm, spec_input=grid(dtype="float32"))[0]
    mm = (np.arange(52) - 25.5) * 0.7
    expected = 10 * (100 + mm[:, None] / pixel_mm[0]) + 100 + mm[None, :] / pixel_mm[1] - 1000
    assert np.allclose(patch, expected, atol=1e-3 if max(pixel_mm) == min(pixel_mm) else 0.02 * 11)


def test_outside_lies_air():
    corner = cut_patch(np.zeros((60, 60), np.int16), centre_rc=(0, 0), pixel_mm=(0.7, 0.7), spec_input=grid())[0]
    assert (corner[:25] == -1000).all()
    assert (corner[:, :25] == -1000).all()
    assert (corner[27:, 27:] == 0).all()
    far = cut_patch(np.zeros((60, 60), np.int16), centre_rc=(5000, -5000), pixel_mm=(0.7, 0.7), spec_input=grid())
    assert (far == -1000).all()


def test_fine_structure_does_not_alias():
    """A checkerboard under half the grid's step becomes its mean, not another checkerboard."""
    board = np.indices((400, 400)).sum(0) % 2 * 1000.0
    patch = cut_patch(board, centre_rc=(200, 200), pixel_mm=(0.175, 0.175), spec_input=grid(dtype="float32"))[0]
    assert abs(patch.mean() - 500) < 1
    assert patch.std() < 1


def test_spacing_is_required_where_the_spec_resamples():
    with pytest.raises(DataError, match="no pixel spacing"):
        cut_patch(ramp(), centre_rc=(9, 9), pixel_mm=None, spec_input=grid())
    own = cut_patch(ramp(), centre_rc=(99.5, 99.5), pixel_mm=None, spec_input=grid(spacing_mm=None))
    assert np.array_equal(own[0], ramp()[74:126, 74:126])
