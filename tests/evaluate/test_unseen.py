"""What leaving each device out brings together, with figures written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.evaluate.unseen import unseen
from tests.train.small_dataset import small_spec

AUC = {"a": {"a": 0.7, "b": 0.9, "c": 0.8}, "b": {"a": 0.8, "b": 0.6, "c": None}, "c": {"a": None, "b": None, "c": 0.5}}


def branch(folder: Path, left_out: str) -> tuple[Path, Path]:
    """The evaluation and the model of the branch that never saw `left_out`."""
    evaluation, model = folder / f"evaluation-{left_out}", folder / f"model-{left_out}"
    evaluation.mkdir()
    model.mkdir()
    raw = small_spec().model_dump(mode="json")
    raw["split"] |= {"folds": 1, "leave_out": left_out}
    (model / "spec.json").write_text(DiseaseSpec.from_json(json.dumps(raw)).to_json())
    devices = {key: {"name": key.upper(), "n": 40, "auc": {"value": value, "low": value, "high": value}} for key, value in AUC[left_out].items()}
    (evaluation / "metrics.json").write_text(json.dumps({"devices": devices, "synthetic": True}))
    return evaluation, model


def test_the_gap_is_between_devices_seen_and_the_one_left_out_where_both_are_known(tmp_path: Path) -> None:
    evaluations, models = (list(folders) for folders in zip(*(branch(tmp_path, key) for key in "bca"), strict=True))
    result = unseen(small_spec(), evaluations=evaluations, models=models, out=tmp_path / "out")
    assert [(row["key"], row["unseen"]["value"], row["seen"]) for row in result["devices"]] == [
        ("a", 0.7, pytest.approx(0.85)),
        ("b", 0.6, pytest.approx(0.8)),
        ("c", 0.5, None),
    ]
    assert (result["seen"], result["unseen"], result["gap"]) == pytest.approx((0.825, 0.65, 0.175))
    assert json.loads((tmp_path / "out" / "unseen.json").read_text()) == result
    page = (tmp_path / "out" / "unseen.html").read_text()
    assert "SYNTHETIC DATA" in page
    assert ".700" in page.replace("0.700", ".700")


def test_a_model_and_an_evaluation_of_different_branches_are_refused(tmp_path: Path) -> None:
    evaluation, model = branch(tmp_path, "a")
    facts = json.loads((evaluation / "metrics.json").read_text())
    del facts["devices"]["a"]
    (evaluation / "metrics.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="left out"):
        unseen(small_spec(), evaluations=[evaluation], models=[model], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_runs_own_evaluation_alone_means_that_no_device_was_left_out(tmp_path: Path) -> None:
    evaluation, model = branch(tmp_path, "a")
    (model / "spec.json").write_text(small_spec().to_json())
    result = unseen(small_spec(), evaluations=[evaluation], models=[model], out=tmp_path / "out")
    assert (result["devices"], result["gap"], result["synthetic"]) == ([], None, True)
    assert str(result["none_left_out"]).startswith("the data do not have 3 devices with ")
    assert result["none_left_out"] in (tmp_path / "out" / "unseen.html").read_text()


def test_a_model_that_saw_all_devices_among_branches_is_refused(tmp_path: Path) -> None:
    evaluations, models = (list(folders) for folders in zip(*(branch(tmp_path, key) for key in "ab"), strict=True))
    (models[0] / "spec.json").write_text(small_spec().to_json())
    with pytest.raises(DataError, match="left out"):
        unseen(small_spec(), evaluations=evaluations, models=models, out=tmp_path / "out")
