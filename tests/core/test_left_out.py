"""One device left out: its groups are test, wherever else they were photographed; the others keep their split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.core.errors import DataError, SpecError
from components.core.left_out import candidates, splits
from components.core.spec import DiseaseSpec

DISEASE = Path(__file__).parents[2] / "pipelines" / "diseases" / "skin-lesion.toml"


def spec(**split: Any) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(DISEASE).to_json())
    raw["split"] |= split
    raw["device"]["min_n"] = 4
    return DiseaseSpec.from_json(json.dumps(raw))


def manifest(rows: list[tuple[str, str, str, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["group_id", "device_key", "split", "label"])


ROWS = manifest(
    [("g1", "a", "train", 0), ("g1", "b", "train", 0), ("g2", "b", "val", 3), ("g3", "c", "train", 3), ("g4", "c", "test", 0),
     ("g1", "a", "external-x", 0), ("g5", "a", "test", 3)]
)  # fmt: skip


def test_all_groups_of_the_device_are_test_and_nothing_else_moves() -> None:
    assert list(splits(ROWS, spec(leave_out="b"))) == ["test", "test", "test", "train", "test", "external-x", "test"]
    assert list(splits(ROWS, spec(leave_out="c"))) == ["train", "train", "val", "test", "test", "external-x", "test"]
    assert list(splits(ROWS, spec())) == list(ROWS["split"])


def test_no_group_of_the_device_trains_or_validates() -> None:
    for device in "abc":
        of = splits(ROWS, spec(leave_out=device))
        groups = set(ROWS["group_id"][ROWS["device_key"] == device])
        assert not groups & set(ROWS["group_id"][(of == "train") | (of == "val")])


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match=r"no such device.*'d'"):
        splits(ROWS, spec(leave_out="d"))


def test_folds_and_a_device_left_out_exclude_each_other() -> None:
    with pytest.raises(SpecError, match="device left out"):
        spec(leave_out="a", folds=5)


def test_devices_with_few_samples_one_class_or_no_name_are_no_candidates() -> None:
    """Of seven, three remain; with two there is nothing to leave out."""
    rows = [(f"{d}{k}", d, "train", 3 * (k % 2)) for d in ("a", "b", "c", "unknown") for k in range(6)]
    rows += [(f"few{k}", "few", "train", 3 * (k % 2)) for k in range(3)]
    rows += [(f"one{k}", "one", "train", 3) for k in range(6)]
    rows += [(f"ext{k}", "ext", "external-x", 3 * (k % 2)) for k in range(6)]
    assert candidates(manifest(rows), spec()) == ["a", "b", "c"]
    with pytest.raises(DataError, match=r"too few devices.*got 2"):
        candidates(manifest([row for row in rows if row[1] != "c"]), spec())
