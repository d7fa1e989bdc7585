"""The skin phantom: seven diagnoses, reproducible, marked synthetic; and the hand-made features by shapes whose values are known."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.core.errors import DataError
from components.core.features import lesion_abcd
from components.core.phantoms import generator, kinds
from components.core.phantoms.skin_lesion import DIAGNOSES, MALIGNANT, generate
from components.core.phantoms.skin_lesion_camera import KNOWN, UNSEEN
from components.core.phantoms.skin_lesion_drawing import DRAW

# Mean red, green and blue of one scene of each diagnosis, in thousandths.
FROZEN = [[636, 479, 404], [703, 517, 433], [770, 584, 499], [691, 528, 435], [668, 497, 410], [763, 582, 495], [733, 538, 452]]


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "labels.csv", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def digest(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skin") / "known"
    generate(folder, patients=30, seed=5)
    return folder


def test_the_generator_is_found_by_name():
    assert "skin-lesion" in kinds()
    assert generator("skin-lesion") is generate


def test_same_seed_same_bytes(made: Path, tmp_path: Path):
    generate(tmp_path / "again", patients=30, seed=5)
    assert digest(tmp_path / "again") == digest(made)
    generate(tmp_path / "other", patients=2, seed=6)
    assert not digest(tmp_path / "other").items() & digest(made).items()


def test_one_lesion_has_one_diagnosis_and_its_photographs_come_from_different_devices(made: Path):
    rows = table(made)
    by_lesion: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_lesion.setdefault(row["lesion_id"], []).append(row)
    assert len(by_lesion) == 30 < len(rows)
    for own in by_lesion.values():
        assert len({r["label"] for r in own}) == 1
        assert len({r["device"] for r in own}) == len(own)
    assert {r["device"] for r in rows} == {camera.key for camera in KNOWN}
    assert {r["label"] for r in rows} <= set(DIAGNOSES)
    assert set(MALIGNANT) < set(DIAGNOSES)


def test_every_file_says_that_it_is_synthetic(made: Path):
    for row in table(made):
        assert row["synthetic"] == "1"
        with Image.open(made / row["image"]) as image:
            assert (image.info.get("comment", b"").decode() + image.info.get("Comment", "")).startswith("SYNTHETIC")
    assert json.loads((made / "phantom.json").read_text())["synthetic"] is True


def test_the_unseen_device_photographs_people_of_its_own(made: Path, tmp_path: Path):
    generate(tmp_path / "unseen", patients=3, seed=5, unseen=True)
    rows = table(tmp_path / "unseen")
    assert {r["device"] for r in rows} == {UNSEEN.key}
    assert not {r["patient"] for r in rows} & {r["patient"] for r in table(made)}


def test_what_was_drawn_is_frozen():
    """Models are tuned on the phantom, never it on models: new draws need a new version and new figures."""
    found = [np.rint(1000 * DRAW[name](np.random.default_rng([1, n])).image.mean((0, 1))).tolist() for n, name in enumerate(DIAGNOSES)]
    np.testing.assert_allclose(found, FROZEN, atol=2)


def test_melanomas_have_more_colours_and_less_symmetry_than_moles():
    scenes = {
        name: np.stack([np.moveaxis(DRAW[name](np.random.default_rng([2, n])).image, 2, 0) for n in range(12)]) for name in ("melanoma", "nevus")
    }
    means = {name: dict(zip(lesion_abcd.NAMES, lesion_abcd.features(np.clip(x, 0, 1)).mean(0), strict=True)) for name, x in scenes.items()}
    for what in ("asymmetry_long", "colour_asymmetry", "compactness"):
        assert means["melanoma"][what] > means["nevus"][what], what


def shapes() -> dict[str, np.ndarray]:
    """Brown on skin, 64 x 64: a disc of radius 16, half of it, and a disc that is half black."""
    rows, columns = np.indices((64, 64))
    disc = np.hypot(rows - 31.5, columns - 31.5) < 16
    made = {}
    for name, mask in (("disc", disc), ("half", disc & (rows < 32)), ("two", disc)):
        image = np.ones((3, 64, 64)) * np.array([0.85, 0.65, 0.55])[:, None, None]
        image[:, mask] = (image[:, mask].T * [0.72, 0.62, 0.52]).T
        if name == "two":
            image[:, mask & (columns < 32)] *= 0.25
        made[name] = image.astype(np.float32)
    return made


def test_features_of_shapes_with_known_values():
    made = shapes()
    disc, half, two = (dict(zip(lesion_abcd.NAMES, row, strict=True)) for row in lesion_abcd.features(np.stack(list(made.values()))))
    assert disc["diameter"] == pytest.approx(0.5, abs=0.03)
    assert disc["asymmetry_long"] == pytest.approx(0, abs=0.03)
    assert disc["elongation"] == pytest.approx(1, abs=0.03)
    assert disc["colours"] == 1
    assert disc["share_light_brown"] > 0.9
    assert disc["off_centre"] < 0.01
    assert half["elongation"] == pytest.approx(1.9, abs=0.2)  # standard deviations r/2 and 0.264 r
    assert two["colours"] == 2
    assert two["share_light_brown"] == pytest.approx(0.5, abs=0.08)
    assert two["colour_asymmetry"] > 5 * max(disc["colour_asymmetry"], 0.02)


def test_features_of_a_picture_without_a_lesion_are_finite():
    flat = np.full((1, 3, 64, 64), 0.6, np.float32)
    found = lesion_abcd.features(np.concatenate([flat, np.zeros_like(flat)]))
    assert found.shape == (2, len(lesion_abcd.NAMES))
    assert np.isfinite(found).all()
    with pytest.raises(DataError):
        lesion_abcd.features(np.zeros((1, 1, 64, 64), np.float32))
