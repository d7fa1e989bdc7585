"""The 28 features on drawn shapes with known answers, the SVM's arrays, and augmentation against exact turns."""

from __future__ import annotations

import numpy as np
import pytest

from components.core.cores import available_cores
from components.core.errors import DataError
from components.core.features.hand28 import NAMES, features
from components.core.imaging.augment import Augment, orientations, warp


def one(image: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, features(image[None, None].astype(np.float32))[0].tolist(), strict=True))


def ellipse(a: float, b: float, *, size: int = 52, inside: float = 0.8, outside: float = 0.2, at: tuple[float, float] = (0, 0)) -> np.ndarray:
    rows, columns = np.indices((size, size)) - (size - 1) / 2
    return np.where(((rows - at[0]) / b) ** 2 + ((columns - at[1]) / a) ** 2 <= 1, inside, outside)


def test_there_are_28_and_all_are_finite_on_flat_and_noisy_patches():
    images = np.stack([np.zeros((52, 52)), np.ones((52, 52)), np.random.default_rng(0).random((52, 52))])[:, None].astype(np.float32)
    found = features(images)
    assert found.shape == (3, 28) == (3, len(NAMES))
    assert np.isfinite(found).all()


def test_disc_has_its_area_its_intensities_and_no_direction():
    f = one(ellipse(10, 10))
    assert f["area"] == pytest.approx(np.pi * 100 / 52**2, rel=0.03)
    assert f["elongation"] == pytest.approx(0, abs=0.02)
    assert (f["mean_inside"], f["mean_around"], f["contrast"]) == pytest.approx((0.8, 0.2, 0.6), abs=1e-5)
    assert f["gradient_inward"] > 0.9
    assert f["on_border"] == 0
    assert f["off_centre"] == pytest.approx(0, abs=1e-6)


def test_elongation_is_one_minus_the_ratio_of_axes():
    assert one(ellipse(16, 8))["elongation"] == pytest.approx(0.5, abs=0.03)


def test_spikes_raise_perimeter_and_radius_variation_but_hardly_area():
    rows, columns = np.indices((52, 52)) - 25.5
    angle, radius = np.arctan2(rows, columns), np.hypot(rows, columns)
    star = np.where(radius <= 10 + 3 * np.sin(9 * angle), 0.8, 0.2)
    smooth, spiky = one(ellipse(10.2, 10.2)), one(star)
    assert spiky["radius_variation"] > 2 * smooth["radius_variation"]
    assert spiky["compactness"] < 0.8 * smooth["compactness"]
    assert spiky["area"] == pytest.approx(smooth["area"], rel=0.1)


def test_bright_structure_that_does_not_touch_the_centre_is_no_lesion():
    image = np.maximum(ellipse(6, 6), ellipse(4, 20, at=(0, 20)))
    assert one(image)["area"] == pytest.approx(one(ellipse(6, 6))["area"])


def test_cooccurrence_of_a_flat_patch_and_of_a_checkerboard():
    """Flat: contrast 0, energy 1. Checkerboard of grey levels 0 and 7: of the four directions two change by 7, so contrast 49 x share."""
    flat = one(np.full((52, 52), 0.5))
    assert (flat["glcm_contrast"], flat["glcm_energy"], flat["glcm_homogeneity"], flat["lbp_flat"]) == (0, 1, 1, 1)
    board = one((np.indices((52, 52)).sum(axis=0) % 2).astype(float))
    straight, diagonal = 2 * 52 * 51, 2 * 51 * 51
    assert board["glcm_contrast"] == pytest.approx(49 * straight / (straight + diagonal))


def test_features_of_many_patches_are_those_of_each():
    images = np.random.default_rng(2).random((300, 1, 20, 24), dtype=np.float32)
    assert np.array_equal(features(images)[[0, 255, 256, 299]], np.concatenate([features(images[i : i + 1]) for i in (0, 255, 256, 299)]))
    with pytest.raises(DataError, match="8 x 8"):
        features(np.zeros((1, 1, 4, 50), np.float32))


def test_quarter_turns_are_exact_turns():
    """A drawn quarter turn moves pixels onto pixels: each result is one of the eight exact views."""
    import torch

    x = torch.rand(24, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    moved = warp(x, Augment(flips=True, rotation="quarter").draw(24, 9, 9, torch.Generator().manual_seed(1)))
    views = torch.stack(orientations(x))
    distance = (views - moved).abs().amax(dim=(2, 3, 4))
    assert float(distance.min(dim=0).values.max()) < 1e-5
    assert len(set(distance.argmin(dim=0).tolist())) == 8


def test_rotation_keeps_lengths_in_pixels_on_unequal_sides():
    """A quarter turn of a 10 x 30 image: its left end comes from 5 pixels above the middle, not from the image's top edge scaled."""
    import torch

    draws = Augment(flips=False, rotation="any").draw(200, 10, 30, torch.Generator().manual_seed(0))
    scale = torch.tensor([30.0, 10.0])
    pixels = draws[:, :, :2] * scale[None, :, None] / scale[None, None, :]  # from shares of a side to pixels
    assert torch.allclose(pixels @ pixels.transpose(1, 2), torch.eye(2).expand(200, 2, 2), atol=1e-5)


def test_nothing_to_draw_changes_nothing_and_volumes_move_as_one():
    import torch

    x = torch.rand(4, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    still = Augment(flips=False, rotation="none")
    assert not still.moves
    assert torch.allclose(warp(x, still.draw(4, 8, 8, torch.Generator())), x, atol=1e-6)
    same = x[:, :, :1].expand(-1, -1, 3, -1, -1).contiguous()
    turned = warp(same, Augment(rotation="any").draw(4, 8, 8, torch.Generator().manual_seed(3)))
    assert torch.equal(turned[:, :, 0], turned[:, :, 2])


def test_cores_follow_the_cgroup_and_the_variable(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert available_cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert available_cores(tmp_path) == 8
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert available_cores(tmp_path) == 2
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("300000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert available_cores(tmp_path) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert available_cores(tmp_path) == 5
