"""External sets and folds in validate: what may stand where, and what counts as leakage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.validate.test_validate import Change, dataset, made, verdict

EXTERNAL = [{"name": "clinic", "source": "clinic"}, {"name": "pool", "source": "pool", "role": "pretrain"}]


def moved(i: int, r: dict[str, Any], x: np.ndarray) -> None:
    """The last thirty samples are a clinic of its own, the thirty before them a set without labels."""
    if i >= 210:
        r.update(split="external-clinic", device_key="e" * 16)
    elif i >= 180:
        r.update(split="pretrain-pool", label=None, device_key="f" * 16)


def folded(i: int, r: dict[str, Any], x: np.ndarray) -> None:
    r.update(split="val" if i // 3 % 5 == 0 else "train", fold=i // 3 // 2 % 4)


def then(*changes: Change) -> Change:
    def change(i: int, r: dict[str, Any], x: np.ndarray) -> None:
        for one in changes:
            one(i, r, x)

    return change


def test_external_sets_are_no_part_of_the_main_splits(tmp_path: Path):
    spec = made(external=EXTERNAL)
    status, checks, line = verdict(spec, dataset(tmp_path / "d", spec, moved), tmp_path / "v")
    assert (status, line) == ("pass", "")
    assert checks["splits_filled"]["figures"]["external-clinic"] == 30
    assert checks["labels_present"]["seen"] == "0 of 210 missing"


def test_a_label_missing_outside_pretraining_fails(tmp_path: Path):
    spec = made(external=EXTERNAL)
    change = then(moved, lambda i, r, x: r.update(label=None) if i == 230 else None)
    status, checks, line = verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "v")
    assert status == "fail"
    assert checks["labels_present"]["seen"] == "1 of 210 missing"
    assert "has a label" in line


@pytest.mark.parametrize("split", ["external-clinic", "pretrain-pool"])
def test_a_group_in_the_main_source_and_in_an_external_set_is_leakage(tmp_path: Path, split: str):
    spec = made(external=EXTERNAL)
    place = 215 if split == "external-clinic" else 185
    change = then(moved, lambda i, r, x: r.update(group_id=f"{0:015x}a") if i == place else None)
    status, checks, line = verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "v")
    assert status == "fail"
    assert checks["groups_apart"]["status"] == "fail"
    assert checks["groups_apart"]["figures"]["torn"] == 1
    assert "in an external set too" in line


def test_a_split_that_no_spec_names_fails(tmp_path: Path):
    spec = made()
    status, checks, _ = verdict(spec, dataset(tmp_path / "d", spec, moved), tmp_path / "v")
    assert status == "fail"
    assert checks["split_names"]["status"] == "fail"


def test_folds_need_no_test_split(tmp_path: Path):
    spec = made(split__folds=4)
    status, checks, line = verdict(spec, dataset(tmp_path / "d", spec, folded), tmp_path / "v")
    assert (status, line) == ("pass", "")
    assert checks["folds_filled"]["seen"] == "4 folds, 0 of 240 samples in none"


def test_a_group_in_two_folds_is_leakage(tmp_path: Path):
    spec = made(split__folds=4)
    change = then(folded, lambda i, r, x: r.update(fold=3) if i == 0 else None)
    status, checks, line = verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "v")
    assert (status, checks["groups_apart"]["status"]) == ("fail", "fail")
    assert "in more than one split or fold" in line


def test_an_image_in_two_folds_is_leakage(tmp_path: Path):
    spec = made(split__folds=4)
    held: list[np.ndarray] = []

    def change(i: int, r: dict[str, Any], x: np.ndarray) -> np.ndarray | None:
        folded(i, r, x)
        if i == 1:
            held.append(x)
        return held[0] if i == 8 else None  # another patient, another fold

    status, checks, _ = verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "v")
    assert status == "fail"
    assert checks["copies_across"]["figures"]["copies"] == 1


def test_a_sample_in_no_fold_fails(tmp_path: Path):
    spec = made(split__folds=4)
    change = then(folded, lambda i, r, x: r.update(fold=None) if i < 3 else None)
    status, checks, _ = verdict(spec, dataset(tmp_path / "d", spec, change), tmp_path / "v")
    assert (status, checks["folds_filled"]["status"]) == ("fail", "fail")
    assert checks["folds_filled"]["figures"]["lost"] == 3


def test_a_class_absent_from_test_warns_and_from_train_fails(tmp_path: Path):
    for split, wanted in (("test", "warn"), ("train", "fail")):
        spec = made()
        change: Change = lambda i, r, x, split=split: r.update(label=0) if r["split"] == split else None
        status, _, _ = verdict(spec, dataset(tmp_path / f"d{split}", spec, change), tmp_path / f"v{split}")
        assert status == wanted
