"""Deep belief networks: greedy and frozen, standardised inside, scores by free energy; and they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.core.errors import SpecError
from components.core.models import build
from components.core.models.samples import Samples
from components.core.models.torch_pretrain import Given
from tests.core.tables import table, table_spec


def pretrained(folder: Path, samples: Samples | None = None, **options: Any) -> Any:
    own: Any = build(table_spec("dbn", **options))
    samples = samples or table()
    own.pretrain(own.module, Given(samples, samples, 3, torch.device("cpu"), "test", folder, "key"))
    return own


def test_first_machine_is_frozen_bit_by_bit_while_the_second_learns(tmp_path: Path):
    """What the first stage left in the network is what stands there after the second; and a network of one layer gets the same weights."""
    seen: dict[str, list[torch.Tensor]] = {}
    made: list[Any] = []

    class Watched(Given):
        def stage(self, stage: str, *rest: Any) -> list[float]:
            first = made[0].module.layers[0][0]
            seen[f"before {stage}"] = [first.weight.clone(), first.bias.clone()]
            return super().stage(stage, *rest)

    own: Any = build(table_spec("dbn", units=[8, 5], pretrain_epochs=4))
    made.append(own)
    own.pretrain(own.module, Watched(table(), table(), 3, torch.device("cpu"), "test", tmp_path / "two", "key"))
    first = own.module.layers[0][0]
    assert torch.equal(seen["before machine-2"][0], first.weight)
    assert torch.equal(seen["before machine-2"][1], first.bias)
    assert not torch.equal(seen["before machine-1"][0], first.weight)
    alone = pretrained(tmp_path / "one", units=[8], pretrain_epochs=4)
    assert torch.equal(alone.module.layers[0][0].weight, first.weight)


def test_second_machine_learns_from_the_first_ones_hidden_probabilities(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from components.core.models.torch_rbm import Rbm

    fed: list[torch.Tensor] = []
    contrast = Rbm.contrast
    monkeypatch.setattr(Rbm, "contrast", lambda self, v, **rest: (fed.append(v.clone()), contrast(self, v, **rest))[1])
    own = pretrained(tmp_path, units=[8, 5], pretrain_epochs=1)
    with torch.no_grad():
        expected = torch.sigmoid(own.module.layers[0][0](own.module.prepare(torch.from_numpy(table().all()))))
    second = torch.cat([v for v in fed if v.shape[1] == 8])
    assert sorted(second.sum(dim=1).tolist()) == pytest.approx(sorted(expected.sum(dim=1).tolist()), abs=1e-5)


def test_columns_are_standardised_by_the_training_split_inside_the_network(tmp_path: Path):
    """Columns of other scales give the same scores, and a constant one does no harm."""
    own = pretrained(tmp_path, units=[4], pretrain_epochs=1)
    z = own.module.prepare(torch.from_numpy(table().all()))
    assert torch.allclose(z.mean(dim=0), torch.zeros(12), atol=1e-3)
    assert torch.allclose(z.std(dim=0, correction=0), torch.ones(12), atol=1e-3)
    x = table().all()
    x[:, 3] = 0.7
    flat = Samples(batch=lambda rows: x[rows], labels=table().labels, groups=table().groups)
    other = pretrained(tmp_path / "b", samples=flat, units=[4], pretrain_epochs=1)
    assert np.isfinite(other.scores(x)).all()
    assert other.module.prepare(torch.from_numpy(x))[:, 3].abs().max() < 1e-3


@pytest.mark.parametrize("visible", ["gaussian", "binary"])
def test_reconstruction_improves(visible: str, tmp_path: Path):
    """Binary units on what is nearly binary, Gaussian ones on standardised columns."""
    from components.core.models import dbn

    x = table().all() if visible == "gaussian" else (0.5 + 0.45 * np.sign(table().all() - np.median(table().all(), axis=0))).astype(np.float32)
    samples = Samples(batch=lambda rows: x[rows], labels=table().labels, groups=table().groups)
    own: Any = build(table_spec("dbn", units=[16], visible=visible))
    architecture = dbn.Architecture(units=(16,), visible="gaussian" if visible == "gaussian" else "binary", pretrain_epochs=100)
    given = Given(samples, samples, 0, torch.device("cpu"), "test", tmp_path, "key")
    dbn.prepare(own.module, given, architecture)
    (losses,) = dbn.pretrain_machines(own.module, given, architecture, batch=16)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("classes", "label_units"), [(2, False), (3, False), (3, True)])
def test_learns_tables_of_two_and_three_classes(classes: int, label_units: bool, tmp_path: Path):
    spec = table_spec("dbn", classes=classes, epochs=40, lr=1e-2, units=[24, 16], pretrain_epochs=40, label_units=label_units)
    own = build(spec)
    own.fit(table(classes=classes), table(classes=classes, seed=1), seed=0, checkpoint=tmp_path, on_epoch=lambda _: None)
    test = table(classes=classes, seed=2)
    assert (own.scores(test.all()).argmax(axis=1) == test.labels).mean() > 0.85


def test_joint_machine_alone_classifies_by_free_energy(tmp_path: Path):
    """Without a step of supervised training, the class that the topmost machine finds likelier is right far more often than chance."""
    own = pretrained(tmp_path, label_units=True, units=[24], pretrain_epochs=60, visible="gaussian")
    test = table(seed=2)
    assert (own.scores(test.all()).argmax(axis=1) == test.labels).mean() > 0.8


def test_head_is_minus_the_free_energy_of_the_joint_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Differences between classes are those of `Rbm.free_energy`: only the part that all classes share is left out."""
    from components.core.models import dbn

    machines: list[Any] = []
    made = dbn.rbm
    monkeypatch.setattr(dbn, "rbm", lambda *sizes, **options: (machines.append(made(*sizes, **options)), machines[-1])[1])
    own = pretrained(tmp_path, label_units=True, classes=3, samples=table(classes=3), units=[6, 5], pretrain_epochs=3)
    x = torch.from_numpy(table(classes=3).all())
    with torch.no_grad():
        h = own.module.layers(own.module.prepare(x))
        energies = torch.stack([machines[1].free_energy(torch.cat([h, torch.eye(3)[k].expand(len(h), 3)], dim=1)) for k in range(3)], dim=1)
        scores = own.module(x)
    assert torch.allclose(scores - scores[:, :1], -(energies - energies[:, :1]), atol=1e-4)


def test_label_units_need_one_class_per_sample():
    spec = table_spec("dbn", label_units=True)
    raw = spec.model_copy(update={"target": spec.target.model_copy(update={"kind": "multilabel", "positive": None})})
    with pytest.raises(SpecError, match="multilabel"):
        build(raw)
