"""The fundus phantom: photographs of two eyes each, reproducible, marked synthetic, whose signs are those of the grade."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.core.errors import DataError
from components.core.features import fundus28
from components.core.phantoms import fundus_screening, generator, kinds
from components.core.phantoms.fundus import GRADES, PHANTOM_VERSION, generate
from components.core.phantoms.fundus_camera import EXTERNAL, KNOWN, UNSEEN
from components.core.phantoms.fundus_eye import SCENE, eye

# Area of the drawn signs, in thousandths of the scene, of one eye of each grade.
FROZEN = [0.0, 1.1, 7.6, 24.5, 22.8]


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "labels.csv", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def digest(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fundus") / "known"
    generate(folder, patients=8, seed=5)
    return folder


def test_the_generators_are_found_by_name():
    assert {"fundus", "fundus-screening"} <= set(kinds())
    assert not {"fundus-eye", "fundus-camera", "photographs"} & set(kinds())
    assert generator("fundus") is generate


def test_same_seed_same_bytes_and_another_seed_others(made: Path, tmp_path: Path):
    generate(tmp_path / "again", patients=8, seed=5)
    assert digest(tmp_path / "again") == digest(made)
    generate(tmp_path / "fewer", patients=2, seed=5)  # a person does not depend on how many others there are
    assert digest(tmp_path / "fewer").items() - digest(made).items() == {
        item for item in digest(tmp_path / "fewer").items() if not item[0].startswith("images")
    }
    generate(tmp_path / "other", patients=2, seed=6)
    assert not digest(tmp_path / "other").items() & digest(made).items()


def test_every_person_has_a_left_and_a_right_eye_of_one_camera(made: Path):
    rows = table(made)
    assert len(rows) == 16
    assert {name: n for name, n in Counter(r["patient"] for r in rows).items() if n != 2} == {}
    for row in rows:
        assert row["image"].rsplit("_", 1)[1].startswith(row["eye"] + ".")
        assert row["label"] in GRADES
        assert (made / row["image"]).exists()
    assert len({(r["patient"], r["device"]) for r in rows}) == 8
    assert {r["device"] for r in rows} == {camera.key for camera in KNOWN}


def test_a_left_eye_is_a_right_one_mirrored():
    """The disc lies towards the nose: left in the photograph of a left eye."""
    halves = {}
    for left in (True, False):
        scene, _ = eye(np.random.default_rng(3), 0, left=left)
        halves[left] = scene[70:106, : SCENE // 2, 2].max(), scene[70:106, SCENE // 2 :, 2].max()
    assert halves[True][0] > halves[True][1] + 0.1
    assert halves[False][1] > halves[False][0] + 0.1


def test_every_file_says_that_it_is_synthetic(made: Path):
    for row in table(made):
        assert row["synthetic"] == "1"
        with Image.open(made / row["image"]) as image:
            words = image.info.get("comment", b"").decode() + image.info.get("Comment", "")
            assert words.startswith("SYNTHETIC")
    summary = json.loads((made / "phantom.json").read_text())
    assert summary["synthetic"] is True
    assert summary["version"] == PHANTOM_VERSION
    assert summary["counts"]["files"] == 16
    assert sum(n for name, n in summary["counts"].items() if name.startswith("label_")) == 16


def test_healthy_eyes_have_no_signs_and_severe_ones_many():
    area = {grade: [float(eye(np.random.default_rng([9, n]), grade, left=False)[1].mean()) for n in range(6)] for grade in range(5)}
    assert max(area[0]) == 0
    assert min(area[1]) > 0
    assert np.mean(area[1]) < np.mean(area[2]) < np.mean(area[3])
    assert np.mean(area[4]) > np.mean(area[2])


def test_what_was_drawn_is_frozen():
    """Models are tuned on the phantom, never it on models: new draws need a new version and new figures."""
    found = [round(1000 * float(eye(np.random.default_rng([1, grade]), grade, left=False)[1].mean()), 1) for grade in range(5)]
    assert found == pytest.approx(FROZEN, abs=0.2)


def test_external_sets_have_folders_and_cameras_of_their_own(tmp_path: Path):
    summary = fundus_screening.generate(tmp_path / "all", patients=3, seed=5)
    assert summary["external"] == list(EXTERNAL)
    people = {r["patient"] for r in table(tmp_path / "all")}
    for name, camera in EXTERNAL.items():
        rows = table(tmp_path / "all" / name)
        assert {r["device"] for r in rows} == {camera.key}
        assert not people & {r["patient"] for r in rows}
        assert len(rows) == 2


def test_the_unseen_camera_photographs_people_of_its_own(made: Path, tmp_path: Path):
    fundus_screening.generate(tmp_path / "unseen", patients=3, seed=5, unseen=True)
    rows = table(tmp_path / "unseen")
    assert {r["device"] for r in rows} == {UNSEEN.key}
    assert not {r["patient"] for r in rows} & {r["patient"] for r in table(made)}
    assert [f.name for f in sorted((tmp_path / "unseen").iterdir())] == ["images", "labels.csv", "phantom.json"]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="something else"):
        generate(tmp_path, patients=1, seed=5)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_features_see_a_dark_spot_and_no_line():
    """A spot of 3 x 3 pixels at half the brightness is half as dark as its surroundings; a line 3 pixels wide is nothing to them."""
    x = np.zeros((3, 3, 64, 64), np.float32)
    rows, columns = np.indices((64, 64))
    x[:, :, np.hypot(rows - 31.5, columns - 31.5) < 30] = 0.5
    x[1, :, 30:33, 30:33] = 0.25
    x[2, :, 30:33] *= 0.5
    spots, field = fundus28.red_spots(x)
    inner = np.hypot(rows - 31.5, columns - 31.5) < 20
    assert spots[0][inner].max() < 0.01
    assert spots[1, 31, 31] == pytest.approx(0.48, abs=0.04)
    assert spots[2][inner].max() < 0.02
    assert field[0].mean() == pytest.approx(np.pi * 28**2 / 64**2, abs=0.03)
    found = fundus28.features(x)
    assert found.shape == (3, len(fundus28.NAMES)) == (3, 28)
    assert np.isfinite(found).all()
    assert fundus28.NAMES[2] == "red_peak"
    assert found[1, 2] > 0.4
    assert found[2, 2] < 0.1
    with pytest.raises(DataError):
        fundus28.features(np.zeros((1, 1, 64, 64), np.float32))
