"""Losses, figures and schedules against values worked out by hand; a checkpoint of another training is not used."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import DataError, SpecError
from components.core.models import build, torch_checkpoint
from components.core.models.family_figures import best_epoch, validation_figures
from components.core.models.samples import Samples
from components.core.models.torch_fit import Training
from components.core.models.torch_objective import Objective, class_weights
from components.core.spec import DiseaseSpec

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"


def spec_of(**target: object) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["target"] |= target
    raw["input"]["shape"] = [1, 36, 36]
    raw["families"] = {"cnn": {"kind": "sun2016-cnn", "epochs": 2, "batch": 8, "options": {"maps": [2, 2, 2]}}}
    raw["default_family"] = "cnn"
    return DiseaseSpec.from_json(json.dumps(raw))


def samples(n: int = 12, labels: np.ndarray | None = None) -> Samples:
    x = np.random.default_rng(1).random((n, 1, 36, 36), dtype=np.float32)
    return Samples(batch=lambda rows: x[rows], labels=np.arange(n) % 2 if labels is None else labels, groups=np.arange(n).astype(object))


def test_class_weights_make_each_class_count_alike():
    """9 of one class and 3 of the other: weights 12/(2 x 9) and 12/(2 x 3)."""
    labels = np.array([0] * 9 + [1] * 3)
    weight = Objective(spec_of(), labels, loss="balanced").weight
    assert weight is not None
    assert weight.tolist() == pytest.approx([2 / 3, 2.0])


def test_effective_number_of_samples_lies_between_equal_and_balanced_weights():
    """beta 0.9, 10 and 1 samples: effective numbers (1 - 0.9^10) / 0.1 = 6.5132 and 1; weights 1/6.5132 and 1, scaled to mean 1."""
    effective = class_weights(np.array([10, 1]), beta=0.9)
    assert effective[1] / effective[0] == pytest.approx(6.513215599)
    assert effective @ [10, 1] == pytest.approx(11)
    assert class_weights(np.array([10, 1]), beta=0.0).tolist() == [1, 1]
    assert class_weights(np.array([10, 1]), beta=0.999999)[1] == pytest.approx(class_weights(np.array([10, 1]))[1], rel=1e-5)
    assert class_weights(np.array([3, 0, 1])).tolist() == pytest.approx([2 / 3, 0, 2])


def test_multilabel_positives_weigh_as_much_as_all_negatives():
    """1 positive in 4: weight 3 when balanced; by effective numbers with beta 0.5, (1 - 0.5^3) / (1 - 0.5) = 1.75."""
    spec, labels = spec_of(kind="multilabel", classes=["a"], positive=None), np.array([[1], [0], [0], [0]], np.float32)
    for loss, expected in (("balanced", 3.0), ("effective", 1.75)):
        weight = Objective(spec, labels, loss=loss, beta=0.5).weight
        assert weight is not None
        assert weight.tolist() == pytest.approx([expected])


def test_focal_loss_forgives_what_is_nearly_right():
    """p = 0.8 and 0.5 of the right class, gamma 2: mean of 0.2^2 ln(1/0.8) and 0.5^2 ln 2; gamma 0 is the plain loss, smoothed or not."""
    import torch

    scores, labels = torch.tensor([[math.log(4), 0.0], [0.0, 0.0]]), np.array([0, 1])
    focal = Objective(spec_of(), labels, loss="focal")
    assert float(focal.loss(scores, focal.target(labels))) == pytest.approx((0.04 * math.log(1.25) + 0.25 * math.log(2)) / 2)
    plain, none = (Objective(spec_of(), labels, loss=loss, gamma=1e-9, smoothing=0.1) for loss in ("plain", "focal"))
    assert float(plain.loss(scores, plain.target(labels))) == pytest.approx(float(none.loss(scores, none.target(labels))))
    several = spec_of(kind="multilabel", classes=["a", "b"], positive=None)
    both = Objective(several, np.zeros((1, 2), np.float32), loss="focal")
    loss = both.loss(torch.tensor([[math.log(4), 0.0]]), both.target(np.array([[1.0, 0.0]])))
    assert float(loss) == pytest.approx((0.04 * math.log(1.25) + 0.25 * math.log(2)) / 2)


def test_multilabel_loss_is_mean_of_binary_losses():
    import torch

    spec = spec_of(kind="multilabel", classes=["a", "b"], positive=None)
    objective = Objective(spec, np.zeros((2, 2), np.float32))
    loss = objective.loss(torch.tensor([[0.0, 2.0]]), objective.target(np.array([[1.0, 0.0]])))
    assert float(loss) == pytest.approx((math.log(2) + math.log(1 + math.exp(2))) / 2)


def test_validation_figures_of_known_scores():
    """Margins 2, 0, -1 with labels 1, 0, 0: every pair is ranked right; the loss is the mean of log(1 + exp(-+margin))."""
    scores = np.array([[0, 2], [0, 0], [1, 0]], np.float32)
    figures = validation_figures(spec_of(), np.array([1, 0, 0]), scores)
    assert figures["val_auc"] == 1.0
    assert figures["val_loss"] == pytest.approx((math.log1p(math.exp(-2)) + math.log(2) + math.log1p(math.exp(-1))) / 3)


def test_first_class_may_be_the_positive_one():
    scores = np.array([[2, 0], [0, 1]], np.float32)
    assert validation_figures(spec_of(positive="benign"), np.array([0, 1]), scores)["val_auc"] == 1.0


def test_validation_of_one_class_has_a_loss_but_no_auc():
    figures = validation_figures(spec_of(), np.array([1, 1]), np.zeros((2, 2), np.float32))
    assert set(figures) == {"val_loss"}
    with pytest.raises(DataError, match="not finite"):
        validation_figures(spec_of(), np.array([1, 0]), np.full((2, 2), np.nan, np.float32))


def test_best_epoch_breaks_ties_by_loss_then_by_being_first():
    def epoch(number: int, auc: float, loss: float) -> dict[str, float]:
        return {"epoch": number, "val_auc": auc, "val_loss": loss}

    assert best_epoch([epoch(1, 0.8, 0.5), epoch(2, 0.9, 0.6), epoch(3, 0.9, 0.4), epoch(4, 0.9, 0.4)])["epoch"] == 3


def test_learning_rate_warms_up_and_ends_near_zero():
    onecycle, cosine = (Training(schedule=name) for name in ("onecycle", "cosine"))
    rates = [onecycle.rate(step, 100) for step in range(100)]
    assert rates.index(max(rates)) == 10
    assert rates[0] == pytest.approx(1 / 11)
    assert cosine.rate(0, 100) == 1.0
    assert cosine.rate(50, 100) == pytest.approx(0.5)
    assert 0 < rates[-1] < 0.001


def test_empty_split_and_diverging_loss_are_one_line(tmp_path: Path):
    spec = spec_of()
    with pytest.raises(DataError, match="split val"):
        build(spec).fit(samples(), samples(0), seed=0, checkpoint=tmp_path, on_epoch=lambda _: None)
    raw = json.loads(spec.to_json())
    raw["families"]["cnn"]["lr"] = 1e30
    with pytest.raises((SpecError, DataError), match="finite"):
        build(DiseaseSpec.from_json(json.dumps(raw))).fit(samples(), samples(), seed=0, checkpoint=tmp_path, on_epoch=lambda _: None)


def test_checkpoint_of_another_training_is_not_used(tmp_path: Path):
    """Another seed in the same folder trains as if the folder were empty."""
    spec = spec_of()
    for seed in (1, 2):
        second = build(spec)
        second.fit(samples(), samples(), seed=seed, checkpoint=tmp_path / "shared", on_epoch=lambda _: None)
    fresh = build(spec)
    fresh.fit(samples(), samples(), seed=2, checkpoint=tmp_path / "own", on_epoch=lambda _: None)
    x = samples().all()
    assert np.array_equal(second.scores(x), fresh.scores(x))


def test_checkpoint_keeps_every_tensor_and_names_its_training(tmp_path: Path):
    import torch

    tensors = {"model": {"a/b": torch.arange(3.0)}, "optimiser": {"0.step": torch.tensor(4.0)}}
    torch_checkpoint.write(tmp_path, key="k", state={"history": [{"epoch": 1}]}, tensors=tensors)
    assert torch_checkpoint.read(tmp_path, key="other") is None
    found = torch_checkpoint.read(tmp_path, key="k")
    assert found is not None
    assert found[0] == {"history": [{"epoch": 1}]}
    assert torch.equal(found[1]["model"]["a/b"], torch.arange(3.0))
    assert torch.equal(found[1]["optimiser"]["0.step"], torch.tensor(4.0))


def test_process_random_state_is_left_alone(tmp_path: Path):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build(spec_of()).fit(samples(), samples(), seed=0, checkpoint=tmp_path, on_epoch=lambda _: None)
    assert torch.equal(torch.rand(1), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_what_tracing_cannot_export_the_other_exporter_does(tmp_path: Path):
    """torch.rot90 has no opset-17 symbol in the tracing exporter; the file still agrees with torch at a batch size of its own."""
    import onnxruntime
    import torch

    from components.core.models.torch_onnx import export

    class Turned(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.rot90(x, 1, (2, 3)).flatten(1)

    export(Turned(), (1, 4, 4), tmp_path / "turned.onnx")
    x = np.random.default_rng(0).random((5, 1, 4, 4), dtype=np.float32)
    (answer,) = onnxruntime.InferenceSession(tmp_path / "turned.onnx").run(["scores"], {"x": x})
    assert np.array_equal(answer, np.rot90(x, axes=(2, 3)).reshape(5, -1))
