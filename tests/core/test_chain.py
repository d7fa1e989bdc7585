"""The lung chain, step by step, on chests whose lungs, airway and nodules are known."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from components.core.chain import lung_preprocess, lung_segment, nodule_detect, nodule_segment
from components.core.chain.candidate_classifier import DEFAULT, NAMES, Detector, fit
from components.core.chain.lung_segment import Lungs
from components.core.dice import dice
from components.core.errors import DataError
from tests.core.whole_chest import Chest, chest

STEP = (3.0, 2.8, 2.8)


@cache
def example() -> tuple[Chest, Lungs]:
    made = chest(size=128, slices=70, pixel_mm=2.8, spacing_mm=3.0, seed=1, vessels=40)
    working, _ = lung_preprocess.working_grid(made.hu, STEP)
    return made, lung_segment.segment(working)


def on_series(lungs: Lungs, shape: tuple[int, ...]) -> np.ndarray:
    near = [np.clip(np.rint(np.arange(n) * s).astype(int), 0, m - 1) for n, s, m in zip(shape, STEP, lungs.mask.shape, strict=True)]
    return lungs.mask[np.ix_(*near)]


def test_a_plane_stays_a_plane_on_the_working_grid():
    z, y, x = np.mgrid[:8, :40, :30]
    made, grid = lung_preprocess.working_grid((-900 + 20 * z + 5 * y + 3 * x).astype(np.int16), (2.0, 0.7, 0.7))
    k, i, j = 6, 10, 8
    assert made.shape == grid.shape == (15, 28, 21)
    assert made[k, i, j] == pytest.approx(-900 + 20 * k / 2.0 + 5 * i / 0.7 + 3 * j / 0.7, abs=0.3)
    assert grid.voxel([[k, i, j]], (2.0, 0.7, 0.7))[0].tolist() == pytest.approx([3.0, 10 / 0.7, 8 / 0.7])


def test_lungs_are_found_without_body_table_and_room():
    made, lungs = example()
    assert dice(on_series(lungs, made.hu.shape), made.lungs) > 0.98
    assert -880 < lungs.lung_hu < -820


def test_the_airway_is_no_lung():
    made, lungs = example()
    assert (on_series(lungs, made.hu.shape) & made.trachea).sum() < 0.02 * made.trachea.sum()


def test_a_nodule_at_the_chest_wall_belongs_to_the_lung():
    """Without closing it would not: it is as dense as the wall it lies on."""
    made, lungs = example()
    centre, radius = made.nodules[made.touching]
    nodule = (ball(made.hu.shape, centre, radius, STEP) > 0.5) & made.lungs
    assert (made.hu[nodule] > lungs.tissue_hu).mean() > 0.9
    assert on_series(lungs, made.hu.shape)[nodule].mean() > 0.6


def test_lung_that_fills_the_view_is_lung_and_air_around_a_body_is_not():
    full = np.full((20, 60, 60), -860, dtype=np.float32)
    full[:, 20:26, 20:26] = 40
    assert lung_segment.segment(full).mask.all()
    with pytest.raises(DataError, match="no lung in the series"):
        lung_segment.segment(np.where(full > 0, full, np.float32(-1000)))


def test_water_has_no_lung():
    with pytest.raises(DataError, match="no lung in the series"):
        lung_segment.segment(np.zeros((20, 60, 60), dtype=np.float32))


def ball(shape: tuple[int, ...], centre: tuple[float, float, float], radius: float, step: tuple[float, float, float]) -> np.ndarray:
    """Share of each voxel inside a ball, in mm; the edge is a voxel wide."""
    axes = [np.arange(n) * s - c for n, s, c in zip(shape, step, centre, strict=True)]
    away = np.sqrt(axes[0][:, None, None] ** 2 + axes[1][None, :, None] ** 2 + axes[2][None, None, :] ** 2)
    return np.clip((radius - away) / 0.7 + 0.5, 0, 1)


def filled(share: np.ndarray, seed: int = 0) -> np.ndarray:
    """Lung with something dense in it, and noise."""
    noise = np.random.default_rng(seed).normal(0, 15, share.shape)
    return (-860 + 900 * share + noise).astype(np.float32)


def test_a_ball_is_a_candidate_and_a_vessel_is_none():
    volume = filled(ball((40, 60, 80), (20, 30, 20), 4.0, (1, 1, 1)))
    z, y = np.mgrid[:40, :60]
    volume += np.where(np.hypot(z - 20, y - 30) < 2, 900, 0)[:, :, None] * (np.arange(80) > 40)
    lung = np.ones(volume.shape, dtype=bool)
    found = nodule_detect.candidates(volume, lung, lung_hu=-860.0)
    assert np.linalg.norm(found.at[0] - [20, 30, 20]) <= 1.5
    assert found.sigma_mm[0] * 3**0.5 == pytest.approx(4.0, rel=0.35)
    along = (found.at[:, 2] > 48) & (found.at[:, 2] < 72)
    assert not along.any()


@pytest.mark.parametrize(("radius", "step"), [(4.0, (1.0, 0.7, 0.7)), (6.0, (2.0, 0.7, 0.7)), (9.0, (1.25, 0.9, 0.9))])
def test_a_ball_has_its_volume_on_any_grid(radius: float, step: tuple[float, float, float]):
    shape = tuple(round(44 / s) for s in step)
    hu = filled(ball(shape, (22, 22, 22), radius, step)).astype(np.int16)
    region = nodule_segment.segment(hu, np.ones((45, 45, 45), dtype=bool), step, centre=tuple(21.5 / s for s in step), radius_mm=0.8 * radius)
    assert region is not None
    assert region.diameter_mm == pytest.approx(2 * radius, rel=0.08)
    assert np.array(region.centre) * step == pytest.approx([22, 22, 22], abs=0.4)
    assert region.around_hu == pytest.approx(-860, abs=5)


def test_a_vessel_that_runs_into_a_nodule_is_taken_off():
    inside = ball((60, 60, 60), (30, 30, 30), 6.0, (1, 1, 1))
    z, y = np.mgrid[:60, :60]
    tube = (np.hypot(z - 30, y - 30) < 1.6)[:, :, None] & (np.arange(60) > 30)
    hu = filled(np.maximum(inside, tube)).astype(np.int16)
    region = nodule_segment.segment(hu, np.ones(hu.shape, dtype=bool), (1, 1, 1), centre=(30, 30, 30), radius_mm=5)
    assert region is not None
    own = np.zeros(hu.shape, dtype=np.uint8)
    region.into(own, 1)
    assert region.grown > region.mask.sum()
    assert own[30, 30, 50] == 0
    assert dice(own > 0, inside > 0.5) > 0.9


def test_a_nodule_is_parted_from_the_chest_wall():
    """Its middle lies 4 mm from the wall, its radius is 5 mm; the lung mask reaches round it as closing leaves it."""
    inside = ball((50, 50, 50), (25, 25, 25), 5.0, (1, 1, 1))
    wall = np.broadcast_to(np.arange(50) > 29, (50, 50, 50))
    hu = filled(np.maximum(inside, wall)).astype(np.int16)
    region = nodule_segment.segment(hu, ~wall, (1, 1, 1), centre=(25, 25, 25), radius_mm=4)
    assert region is not None
    own = np.zeros(hu.shape, dtype=np.uint8)
    region.into(own, 1)
    assert own[:, :, 36:].sum() == 0
    assert dice(own > 0, inside > 0.5) > 0.8


def test_nothing_is_outlined_where_there_is_only_lung():
    hu = filled(np.zeros((30, 30, 30))).astype(np.int16)
    assert nodule_segment.segment(hu, np.ones(hu.shape, dtype=bool), (1, 1, 1), centre=(15, 15, 15), radius_mm=3) is None


def test_the_detector_learns_what_parts_two_clouds(tmp_path: Path):
    rng = np.random.default_rng(0)
    y = np.arange(200) % 4 == 0
    x = rng.normal(size=(200, len(NAMES)))
    x[:, 2] += 3 * y
    made = fit(x, y, threshold=0.5, made_from="two clouds", synthetic=True)
    p = made.probabilities(x)
    assert np.mean(p[y]) > 0.8
    assert np.mean(p[~y]) < 0.2
    (tmp_path / "d.json").write_text(made.to_json())
    assert Detector.read(tmp_path / "d.json") == made
    with pytest.raises(DataError, match="needs nodules and other candidates"):
        fit(x, np.ones(200, dtype=bool), threshold=0.5, made_from="", synthetic=True)


def test_the_detector_that_comes_along_says_that_it_is_synthetic():
    made = Detector.read(DEFAULT)
    assert made.synthetic
    assert 0 < made.threshold < 1


@pytest.mark.parametrize("change", [{"schema": 2}, {"names": ["a"]}, {"weights": [1.0]}, {"bias": None}, {"sd": [0.0] * len(NAMES)}])
def test_a_changed_detector_is_refused(tmp_path: Path, change: dict[str, object]):
    path = tmp_path / "d.json"
    path.write_text(json.dumps(json.loads(DEFAULT.read_text()) | change))
    with pytest.raises(DataError, match="detector"):
        Detector.read(path)
