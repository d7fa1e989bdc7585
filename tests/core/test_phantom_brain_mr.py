"""The brain phantom: a true BIDS tree, bytes from the seed only, atrophy where a physician looks for it, scanners that differ as stated."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.imaging.orientation import codes
from components.core.phantoms import kinds
from components.core.phantoms.brain_mr import CLASSES, generate, simulate
from components.core.phantoms.brain_mr_anatomy import Brain, draw_brain, signal
from components.core.phantoms.brain_mr_scanners import KNOWN, MR_SCANNERS, SOURCE, UNSEEN, mr_scanner

SEED = 3
FROZEN = [[0.84, 0.839, 0.9987], [0.6756, 1.5891, 0.8393], [0.3089, 1.2445, 0.7304]]
TISSUE = (0.2, 0.6, 1.0, 1.3, 0.5, 0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "known"
    generate(folder, patients=9, seed=SEED, workers=1)
    return folder


def digest(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def brain(**changes: Any) -> Brain:
    """An average head, straight and in the middle."""
    facts: dict[str, Any] = {"age": 70.0, "size": (1.0, 1.0, 1.0), "hippocampus": (1.0, 1.0), "ventricle": 1.0, "cortex": 1.0}
    facts |= {"folds": np.array([[1, 0, 0, 20, 0, 0]], np.float32), "tilt_rad": (0.0, 0.0, 0.0), "shift_mm": (0.0, 0.0, 0.0)}
    return Brain(**(facts | changes))


def at(one: Brain, *mm: tuple[float, float, float]) -> list[float]:
    return [round(v, 2) for v in signal(np.array(mm, dtype=np.float32), one, TISSUE).tolist()]


def test_same_seed_same_bytes_with_any_number_of_workers(made: Path, tmp_path: Path):
    generate(tmp_path / "again", patients=9, seed=SEED, workers=2)
    assert digest(tmp_path / "again") == digest(made)


def test_what_was_drawn_is_frozen():
    """Hippocampus, ventricles and cortex of the first three persons; a change needs a new PHANTOM_VERSION."""
    drawn = [simulate(seed=SEED, unseen=False, domain="target", number=n)[2] for n in range(3)]
    assert [[round(v, 4) for v in (b.hippocampus[0], b.ventricle, b.cortex)] for b in drawn] == FROZEN


def test_tissues_lie_where_anatomy_puts_them():
    """White matter deep, hippocampus and thalamus grey, ventricles fluid, skull dark, air outside."""
    found = at(brain(), (40, 10, 30), (27, -19, -17), (-27, -19, -17), (19, -8, 3), (12, -4, 17), (0, 89.5, 2), (0, 130, 0))
    assert found == [1.0, 0.6, 0.6, 0.6, 0.2, 1.3, 0.0]


def test_each_structure_shrinks_or_grows_where_it_lies():
    """Fluid takes the place of the hippocampus, of white matter beside a ventricle, and of a thin cortex; one side does not touch the other."""
    rim, other = (27.0, -20.0, -7.5), (-27.0, -20.0, -7.5)
    assert at(brain(hippocampus=(1.0, 0.4)), rim, other) != at(brain(), rim, other)
    assert at(brain(hippocampus=(1.0, 0.4)), other) == at(brain(), other)
    assert at(brain(hippocampus=(1.0, 0.4)), rim) == [0.2]
    assert (at(brain(), (18, -2, 17)), at(brain(ventricle=4.0), (17, -2, 17))) == ([1.0], [0.2])
    grid = np.stack(np.meshgrid(*[np.arange(-60, 61, 5.0)] * 3, indexing="ij"), axis=-1).reshape(-1, 3).astype(np.float32)
    fluid = [float((signal(grid, brain(cortex=c), TISSUE) < 0.4).mean()) for c in (1.0, 0.7)]
    assert fluid[1] > fluid[0] + 0.01


def test_classes_overlap_and_ages_do_too():
    """Over 600 persons: hippocampi fall with the diagnosis, and so they do with age; no value tells the diagnosis for certain."""
    people = [[draw_brain(np.random.default_rng([9, k, n]), label=k, domain="target") for n in range(200)] for k in range(3)]
    volume: list[NDArray[Any]] = [np.array([sum(b.hippocampus) / 2 for b in p]) for p in people]
    ages: list[NDArray[Any]] = [np.array([b.age for b in p]) for p in people]
    assert np.median(volume[0]) > 1.5 * np.median(volume[1]) > 2 * np.median(volume[2])
    assert volume[1].max() > np.percentile(volume[0], 5)
    assert volume[1].min() < np.percentile(volume[2], 95)
    assert np.corrcoef(ages[0], volume[0])[0, 1] < -0.1
    assert abs(ages[2].mean() - ages[0].mean()) < 4


def test_the_tree_is_bids_and_says_that_it_is_synthetic(made: Path):
    summary = json.loads((made / "phantom.json").read_text())
    assert (summary["synthetic"], summary["counts"]["patients"], summary["counts"]["source"]) == (True, 9, 4)
    with open(made / "participants.tsv") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    assert [row["diagnosis"] for row in rows] == list(CLASSES) * 3
    for row in rows:
        folder = made / row["participant_id"] / "anat"
        facts = json.loads((folder / f"{row['participant_id']}_T1w.json").read_text())
        assert facts["Synthetic"]
        assert facts["Manufacturer"].startswith("SYNTHETIC")
        image: Any = nib.load(next(folder.glob("*_T1w.nii*")))
        assert bytes(image.header["descrip"]).startswith(b"SYNTHETIC")
        device = next(s for s in MR_SCANNERS if s.serial == facts["DeviceSerialNumber"])
        assert (codes(image.affine), facts["MagneticFieldStrength"]) == (device.axes, device.field_t)
        assert (folder / f"{row['participant_id']}_T1w.nii.gz").exists() == device.packed
    assert "diagnosis" not in (made / "source-domain" / "participants.tsv").read_text()
    assert len(list((made / "source-domain").rglob("*.nii*"))) == 4


def test_files_hold_what_was_simulated_whatever_their_axes(made: Path):
    for number in (0, 3, 6):  # one of each scanner
        volume, affine, _, _, _ = simulate(seed=SEED, unseen=False, domain="target", number=number)
        image: Any = nib.load(next((made / f"sub-syn{number + 1:04d}").rglob("*.nii*")))
        assert np.array_equal(np.asarray(image.dataobj), np.rint(volume))
        assert np.allclose(image.affine, affine, atol=1e-4)


def test_scanners_differ_in_noise_gain_field_and_axes():
    known = [mr_scanner(key) for key in (*KNOWN, *UNSEEN)]
    for facts in (lambda s: s.gain, lambda s: s.noise, lambda s: s.bias, lambda s: s.axes, lambda s: s.tissue):
        assert len({facts(s) for s in known}) == 4
    assert len({s.field_t for s in known}) == 3
    assert not set(KNOWN) & set(UNSEEN) & set(SOURCE)
    # Rician: in air the magnitude of two channels of noise has the mean sd * sqrt(pi / 2)
    for number, one in ((0, known[0]), (3, known[1])):
        volume, _, _, _, _ = simulate(seed=SEED, unseen=False, domain="target", number=number)
        corner = volume[:6, :6, -4:] / one.gain
        assert corner.mean() == pytest.approx(one.noise * np.sqrt(np.pi / 2), rel=0.2)


def test_the_unseen_scanner_has_persons_of_its_own(tmp_path: Path):
    summary = generate(tmp_path / "u", patients=3, seed=SEED, workers=1, unseen=True)
    assert summary["scanners"] == list(UNSEEN)
    assert not (tmp_path / "u" / "source-domain").exists()
    known = simulate(seed=SEED, unseen=False, domain="target", number=0)[2]
    assert simulate(seed=SEED, unseen=True, domain="target", number=0)[2].age != known.age


def test_a_folder_with_something_else_is_left_alone(made: Path, tmp_path: Path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine").touch()
    with pytest.raises(DataError, match="something else"):
        generate(tmp_path / "x", patients=1, seed=0)
    before = (made / "phantom.json").stat().st_mtime_ns
    assert generate(made, patients=9, seed=SEED)["counts"]["patients"] == 9
    assert (made / "phantom.json").stat().st_mtime_ns == before
    assert "brain-mr" in kinds()
