"""Hard negatives: which samples come again, and which round is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.errors import SpecError
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec
from components.train import hard_negatives

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "breast-metastasis.toml"


def spec_of(rounds: Any, **target: Any) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["aggregate"] = {"method": "mean", "options": {"hard_negatives": rounds}}
    raw["target"] |= target
    return DiseaseSpec.from_json(json.dumps(raw))


X = np.arange(6, dtype=np.float32)
LABELS = np.array([0, 0, 0, 1, 1, 1])


def samples() -> Samples:
    return Samples(batch=lambda rows: X[rows], labels=LABELS, groups=np.arange(6).astype(object))


class Threshold:
    """Calls positive what is above its threshold; saved and loaded as a number."""

    def __init__(self, at: float) -> None:
        self.at = at

    def scores(self, x: np.ndarray) -> np.ndarray:
        return np.stack([self.at - x, x - self.at], axis=1).astype(np.float32)

    def save(self, folder: Path) -> None:
        (folder / "at").write_text(str(self.at))

    def load(self, folder: Path) -> None:
        self.at = float((folder / "at").read_text())


def test_false_alarms_are_negatives_that_are_called_positive():
    assert hard_negatives.false_alarms(spec_of(1), Threshold(0.5), samples()).tolist() == [1, 2]  # type: ignore[arg-type]


def test_they_come_three_times_and_everything_else_once():
    found = hard_negatives.enriched(samples(), np.array([1, 2]))
    assert np.bincount(found.all().astype(int)).tolist() == [1, 3, 3, 1, 1, 1]
    assert found.labels.tolist() == [*LABELS, 0, 0, 0, 0]
    assert len(found.groups) == 10


@pytest.mark.parametrize(("second", "kept"), [(0.9, 2), (0.4, 1)])
def test_the_round_that_is_best_on_validation_is_kept(second: float, kept: int):
    model = Threshold(0.5)

    def again(enriched: Samples, number: int) -> list[dict[str, float]]:
        assert (len(enriched), number) == (10, 2)
        model.at = 2.5
        return [{"epoch": 1, "train_loss": 0.0, "val_loss": 0.5, "val_auc": second}]

    first = [{"epoch": 1, "train_loss": 0.0, "val_loss": 0.5, "val_auc": 0.8}]
    history, facts = hard_negatives.refit(spec_of(1), model, first, samples(), again)  # type: ignore[arg-type]
    assert facts["round"] == kept
    assert model.at == (2.5 if kept == 2 else 0.5)
    assert history[0]["val_auc"] == (second if kept == 2 else 0.8)


def test_no_false_alarm_no_further_round():
    def again(enriched: Samples, number: int) -> list[dict[str, float]]:
        raise AssertionError

    _, facts = hard_negatives.refit(spec_of(2), Threshold(2.5), [{"epoch": 1, "val_loss": 1.0, "val_auc": 1.0}], samples(), again)  # type: ignore[arg-type]
    assert facts == {"round": 1, "hard_negatives": 0}


def test_only_binary_targets_have_negatives():
    assert hard_negatives.rounds(spec_of(0)) == 0
    with pytest.raises(SpecError, match="binary target"):
        hard_negatives.rounds(spec_of(1, kind="multiclass", classes=["normal", "tumour", "more"]))
