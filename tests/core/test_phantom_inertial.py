"""The phantom of worn sensors: the layout of the real set, bytes from the seed, and physics that a textbook would recognise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import DataError, SpecError
from components.core.features.gait import freeze_index
from components.core.phantoms.inertial import COLUMNS, generate, recording
from components.core.phantoms.inertial_gait import FINE_HZ, FREEZE, SHUFFLE, STAND, WALK, Person, course, motion
from components.core.phantoms.inertial_units import KNOWN, UNITS, UNSEEN

SEED = 5
PERSON = Person(stride_hz=0.9, vigour=1, shake_hz=5, shake=1, residue=0.1, akinetic=0, freezes=0.5, tremor_hz=5, tremor=1)


def table(text: str) -> np.ndarray:
    lines = text.splitlines()
    assert lines[2] == COLUMNS
    return np.array([line.split(",") for line in lines[3:]], dtype=np.int64)


def test_the_same_seed_gives_the_same_bytes_and_says_that_it_is_synthetic(tmp_path: Path):
    made = [generate(tmp_path / name, patients=3, seed=SEED) for name in ("a", "b")]
    assert made[0] == made[1] == json.loads((tmp_path / "a" / "phantom.json").read_text())
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["S001R01.txt", "S002R01.txt", "S003R01.txt", "phantom.json"]
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    assert made[0]["synthetic"] is True
    assert made[0]["counts"]["files"] == made[0]["counts"]["patients"] == 3
    for number, key in enumerate(KNOWN):
        head = (tmp_path / "a" / f"S{number + 1:03d}R01.txt").read_text().splitlines()[:2]
        assert head == [f"# device: {key}", "# synthetic: 1"]


def test_another_seed_or_the_unseen_unit_are_other_persons():
    texts = [recording(seed=s, unseen=u, unit=UNITS[0], number=n)[0] for s, u, n in ((1, False, 0), (2, False, 0), (1, True, 0), (1, False, 1))]
    assert len(set(texts)) == 4


def test_folders_that_hold_something_else_stay(tmp_path: Path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.doc").touch()
    with pytest.raises(DataError, match="something else"):
        generate(tmp_path / "x", patients=1, seed=SEED)
    with pytest.raises(SpecError, match="no such simulated device"):
        generate(tmp_path / "y", patients=1, seed=SEED, devices=["syn-psi"])


@pytest.mark.parametrize("unit", UNITS, ids=lambda u: u.key)
def test_each_unit_keeps_its_rate_range_and_resolution(unit):
    rows = table(recording(seed=SEED, unseen=False, unit=unit, number=0)[0])
    assert 1000 / np.diff(rows[:, 0]).mean() == pytest.approx(unit.rate_hz, rel=1e-3)
    assert np.diff(rows[:, 0]).max() <= 1000 / unit.rate_hz + 1
    values = rows[:, 1:-1]
    assert np.abs(values).max() <= 1000 * unit.clip_g
    assert (values[np.abs(values) < 1000 * unit.clip_g] % unit.step_mg == 0).all()
    assert set(np.unique(rows[:, -1])) == {0, 1, 2}
    norm = np.sqrt((values[:, 6:].astype(float) ** 2).sum(axis=1)).mean()
    assert norm == pytest.approx(1000 * unit.gain, rel=0.2)
    assert {u.rate_hz for u in UNITS if u.key in KNOWN} == {40, 64, 100}
    assert not set(KNOWN) & set(UNSEEN)


def spectrum_of(kind: int, person: Person = PERSON, seconds: float = 60.0) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies, and the power of the ankle's three axes in 2.56 s frames of one state, (frames, bins)."""
    rng = np.random.default_rng(SEED)
    true, state = motion(person, [(kind, seconds, False)], rng)
    assert (state == kind).all()
    n = int(2.56 * FINE_HZ)
    frames = true[: len(true) // n * n, :3].reshape(-1, n, 3)
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(n)[None, :, None]
    return np.fft.rfftfreq(n, 1 / FINE_HZ)[1:], (np.abs(np.fft.rfft(frames, axis=1)) ** 2).sum(axis=2)[:, 1:]


def test_freezing_moves_power_from_steps_to_trembling():
    """Moore's freeze index: far lower when walking than when freezing, and with a tremor at rest as high as in a freeze."""
    index = {kind: float(np.median(freeze_index(*spectrum_of(kind)))) for kind in (WALK, STAND, FREEZE)}
    assert index[FREEZE] > index[WALK] + 0.5
    assert index[STAND] > index[WALK] + 0.3


def test_a_trembling_wanders_and_a_tremor_at_rest_keeps_its_frequency():
    """The loudest frequency between 3 and 8 Hz, frame by frame."""
    spread = {}
    for kind in (STAND, FREEZE):
        hz, power = spectrum_of(kind)
        band = (hz > 3) & (hz < 8)
        spread[kind] = float(hz[band][power[:, band].argmax(axis=1)].std())
    assert spread[FREEZE] > 2 * spread[STAND]


def test_shuffling_is_as_quick_as_the_trembling_but_has_steps():
    """Power gathers at multiples of a stride of 0.9 x 1.6 Hz, which reach into the band of freezing."""
    hz, power = spectrum_of(SHUFFLE, replace(PERSON, tremor=0.0))
    stride = 0.9 * 1.6
    near = np.abs(hz / stride - np.rint(hz / stride)) < 0.2
    for low, high in ((1.0, 3.0), (3.0, 8.0)):
        band = (hz > low) & (hz < high)
        assert power[:, near & band].mean() > 2 * power[:, ~near & band].mean()


def test_a_course_is_as_long_as_asked_and_freezes_follow_a_turn_a_stop_or_a_shuffle():
    events = course(PERSON, 600, np.random.default_rng(SEED))
    assert sum(length for _, length, _ in events) == pytest.approx(600)
    before = {events[i - 1][0] for i, (kind, _, _) in enumerate(events) if kind == FREEZE}
    assert before
    assert not before & {WALK, FREEZE}
