"""Neighbouring slices of one head on both sides of a split are found without any id; independent heads are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from components.validate.neighbours import LIMIT, siblings
from components.validate.suite import checks
from tests.validate.test_validate import made, row, verdict

SUBJECTS, SLICES, SIDE = 60, 8, 24


class Heads:
    """Slices of heads: a common shape, a smooth texture of each subject's own that changes slowly from slice to slice, and noise."""

    def __init__(self, seed: int = 0, *, related: bool = True) -> None:
        rng = np.random.default_rng(seed)
        own = rng.standard_normal((SUBJECTS, SLICES, SIDE, SIDE))
        texture = gaussian_filter(own, (0, 0, 2, 2))
        if related:
            texture = gaussian_filter1d(texture, 1.5, axis=1)
        y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
        head = 100 * np.exp(-2 * (x**2 + y**2))
        slices = head + 400 * texture + rng.normal(0, 2, own.shape)
        self.x = slices.reshape(-1, 1, SIDE, SIDE).astype(np.float32)
        self.subject = np.repeat(np.arange(SUBJECTS), SLICES)
        self.info = {"shape": [1, SIDE, SIDE]}

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.x[rows]


def excess(heads: Heads, test: np.ndarray) -> float:
    found = siblings(heads, np.flatnonzero(test), np.flatnonzero(~test))  # type: ignore[arg-type]
    assert found is not None
    return found.excess


def by_slice(heads: Heads) -> np.ndarray:
    return np.random.default_rng(1).random(len(heads.x)) < 0.25


def test_slices_split_at_random_have_siblings_and_heads_split_by_subject_have_none():
    heads = Heads()
    assert excess(heads, by_slice(heads)) > 0.8
    assert excess(heads, heads.subject % 4 == 0) < LIMIT


def test_the_share_is_that_of_the_subjects_who_were_cut():
    """Three quarters of the test subjects have no slice in training, one quarter has half of its slices there."""
    heads = Heads()
    test = heads.subject % 2 == 0
    cut = (heads.subject % 8 == 0) & (np.arange(len(heads.x)) % 2 == 0)
    share = (heads.subject[test & ~cut] % 8 == 0).mean()
    assert excess(heads, test & ~cut) == pytest.approx(share, abs=0.05)


def test_unrelated_slices_have_none_however_they_are_split():
    heads = Heads(related=False)
    assert excess(heads, by_slice(heads)) < LIMIT


def test_gain_and_offset_do_not_hide_a_sibling():
    heads = Heads()
    rng = np.random.default_rng(2)
    heads.x = heads.x * rng.uniform(0.5, 2, (len(heads.x), 1, 1, 1)).astype(np.float32) + rng.normal(0, 100, (len(heads.x), 1, 1, 1)).astype(
        np.float32
    )
    assert excess(heads, by_slice(heads)) > 0.8


@pytest.mark.parametrize("few", [5, 300])
def test_too_few_samples_say_nothing(few: int):
    heads = Heads()
    rows = np.arange(len(heads.x))
    assert siblings(heads, rows[:few], rows[len(rows) - 40 :]) is None  # type: ignore[arg-type]


def test_constant_samples_say_nothing():
    heads = Heads()
    heads.x[:] = 7
    test = by_slice(heads)
    assert siblings(heads, np.flatnonzero(test), np.flatnonzero(~test)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("related", [True, False])
def test_validate_warns_by_itself_where_no_groups_are_named(tmp_path: Path, related: bool):
    from components.core.dataset_writer import Sample, write_dataset

    spec = made(split__grouping="none", split__given=True)
    heads = Heads(related=related)
    test = by_slice(heads)

    def samples() -> Any:
        for i, x in enumerate(heads.x):
            own = f"{i:016x}"
            facts = {"sample_id": own, "group_id": own, "series_id": own, "patient_id": own, "split": "test" if test[i] else ("train", "val")[i % 2]}
            yield Sample(row(i % 240) | facts, np.clip(x - 500, -1000, 400).astype(np.int16))

    write_dataset(tmp_path / "d", spec, samples(), count=len(heads.x), quarantine=[], provenance={})
    got, by_id, line = verdict(spec, tmp_path / "d", tmp_path / "v")
    assert (by_id["siblings_across"]["status"], line) == ("warn" if related else "pass", "")
    assert by_id["near_copies"]["status"] == "pass"  # no copies: the older check cannot see it
    assert got == "warn" or not related


def test_named_groups_need_no_guess():
    assert "siblings_across" not in {c.id for c in checks(made())}
