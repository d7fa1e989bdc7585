"""The hook before the first supervised epoch: called once, on the right samples, resumable; optimisers and rates by part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.core.errors import SpecError
from components.core.models.samples import Samples
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.models.torch_pretrain import Given
from components.core.spec import DiseaseSpec

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"


def estimator(*, epochs: int = 2, weight_decay: float = 0.0, lr: float = 0.1, optimiser: Any = "sgd", **own: Any) -> TorchEstimator:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["input"]["shape"] = [1, 4, 4]
    raw["families"] = {"f": {"kind": "sun2016-cnn", "epochs": epochs, "batch": 8, "lr": lr, "weight_decay": weight_decay}}
    raw["default_family"] = "f"
    spec = DiseaseSpec.from_json(json.dumps(raw))
    training = Training(schedule="constant", optimiser=optimiser, momentum=0.0)

    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))

    return TorchEstimator(spec, spec.families["f"], network, training=training, augment=None, **own)


def samples(n: int = 16, seed: int = 0) -> Samples:
    x = np.random.default_rng(seed).random((n, 1, 4, 4), dtype=np.float32)
    return Samples(batch=lambda rows: x[rows], labels=np.arange(n) % 2, groups=np.arange(n).astype(object))


def fit(own: TorchEstimator, folder: Path, unlabelled: Samples | None = None, on_epoch: Callable = lambda _: None) -> dict[str, torch.Tensor]:
    own.fit(samples(), samples(), seed=3, checkpoint=folder, on_epoch=on_epoch, unlabelled=unlabelled)
    return {name: tensor.clone() for name, tensor in own.module.state_dict().items()}


def test_hook_learns_from_the_training_inputs_or_from_the_unlabelled_set(tmp_path: Path):
    seen: list[np.ndarray] = []
    own = estimator(pretrain=lambda _, given: seen.append(given.inputs.all()))
    fit(own, tmp_path / "a")
    fit(own, tmp_path / "b", unlabelled=samples(5, seed=9))
    assert np.array_equal(seen[0], samples().all())
    assert np.array_equal(seen[1], samples(5, seed=9).all())


def test_supervised_training_starts_from_what_the_hook_left_and_a_resumed_one_does_not_call_it(tmp_path: Path):
    calls: list[int] = []

    def pretrain(module: Any, _: Given) -> None:
        calls.append(1)
        with torch.no_grad():
            module[1].weight.fill_(0.25)

    def killed(_: object) -> None:
        raise KeyboardInterrupt

    own = estimator(pretrain=pretrain, lr=1e-12)
    assert torch.allclose(fit(own, tmp_path / "a")["1.weight"], torch.full((4, 16), 0.25))
    with pytest.raises(KeyboardInterrupt):
        fit(estimator(pretrain=pretrain), tmp_path / "b", on_epoch=killed)
    resumed = fit(estimator(pretrain=pretrain), tmp_path / "b")
    assert len(calls) == 2
    whole = fit(estimator(pretrain=pretrain), tmp_path / "c")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_killed_stage_goes_on_to_the_same_weights(tmp_path: Path):
    """Adam's moments and the order of batches come back, so that the seam cannot be seen."""

    def pretraining(kill_at: int | None, begun: list[int]) -> Callable[[torch.nn.Module, Given], None]:
        def pretrain(module: Any, given: Given) -> None:
            optimiser = torch.optim.Adam(module[1].parameters(), lr=0.01)

            def epoch(number: int) -> float:
                begun.append(number)
                if number == kill_at:
                    raise KeyboardInterrupt
                total = 0.0
                for x, rows in given.batches("one", number, 4):
                    loss = module[1](x.flatten(1)).square().mean()
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    total += loss.item() * len(rows)
                return total / 16

            losses = given.stage("one", 4, module[1], optimiser, epoch)
            assert len(losses) == 4
            assert losses[-1] < losses[0]

        return pretrain

    whole = fit(estimator(pretrain=pretraining(None, [])), tmp_path / "whole")
    first, second = [], []
    with pytest.raises(KeyboardInterrupt):
        fit(estimator(pretrain=pretraining(2, first)), tmp_path / "killed")
    again = fit(estimator(pretrain=pretraining(None, second)), tmp_path / "killed")
    assert (first, second) == ([0, 1, 2], [2, 3])
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_stage_that_diverges_is_one_line(tmp_path: Path):
    def pretrain(module: Any, given: Given) -> None:
        given.stage("one", 1, module, torch.optim.SGD(module.parameters(), lr=1.0), lambda _: float("nan"))

    with pytest.raises(SpecError, match="pretrain_lr"):
        fit(estimator(pretrain=pretrain), tmp_path)


def test_part_without_a_rate_stays_and_one_with_a_tenth_moves_a_tenth_as_far(tmp_path: Path):
    """One step of plain gradient descent from the same start: the change is proportional to the rate."""

    def changes(share: Callable[[str], float]) -> dict[str, torch.Tensor]:
        own = estimator(epochs=1, share=share)
        own.family = own.family.model_copy(update={"batch": 16})
        before = {name: tensor.clone() for name, tensor in own._fresh(3).state_dict().items()}
        return {name: tensor - before[name] for name, tensor in fit(own, tmp_path / str(share("1.weight"))).items()}

    full, tenth, none = (changes(lambda name, s=s: s if name.startswith("1.") else 1.0) for s in (1.0, 0.1, 0.0))
    assert full["1.weight"].abs().max() > 0
    assert torch.allclose(tenth["1.weight"], 0.1 * full["1.weight"], atol=1e-7)
    assert torch.equal(tenth["3.weight"], full["3.weight"])
    assert not none["1.weight"].any()
    assert estimator(share=lambda name: 0.0 if name.startswith("1.") else 1.0).n_parameters == 4 * 2 + 2


def test_adadelta_takes_the_published_constants_and_resumes(tmp_path: Path):
    own = estimator(optimiser="adadelta", lr=1.0, weight_decay=0.01)
    groups = own._optimiser(own.module).param_groups
    assert [(g["rho"], g["eps"], g["weight_decay"], len(g["params"])) for g in groups] == [(0.95, 1e-6, 0.01, 2), (0.95, 1e-6, 0.0, 2)]
    epochs: list[object] = []

    def kill_after_one(epoch: object) -> None:
        epochs.append(epoch)
        if len(epochs) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(estimator(optimiser="adadelta", lr=1.0), tmp_path / "killed", on_epoch=kill_after_one)
    resumed, whole = (fit(estimator(optimiser="adadelta", lr=1.0), tmp_path / name) for name in ("killed", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
