"""Deep belief network: restricted Boltzmann machines, one on the other, then trained as a classifier (Hinton et al. 2006).

The first machine learns the inputs; then its weights are frozen and its hidden probabilities are what the second one learns, and so on. The
stack becomes a network of sigmoid layers, which supervised training fine-tunes. With `label_units` the class is joined to the topmost
machine as a softmax group, and a class's score is minus the free energy of (inputs, class) there.

Takes tables, images and windows; whatever has more than one axis is flattened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from components.core.errors import SpecError
from components.core.imaging.augment import Augment
from components.core.models.family_options import read_options
from components.core.models.torch_batches import mixed_seed
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.models.torch_layers import measure, standardise
from components.core.models.torch_pretrain import Given
from components.core.models.torch_rbm import rbm
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """The network and its pre-training.

    Args:
        units: Hidden units of each machine.
        visible: `gaussian` standardises every input by the training split; `binary` takes values in [0, 1] as probabilities.
        label_units: Join the class to the topmost machine.
        dropout: Before the scores; none with `label_units`.
        cd: Steps of contrastive divergence.
        pretrain_epochs: Of each machine; 0 starts from random weights.
        pretrain_lr: A tenth of it for the first machine when its units are Gaussian.
        pretrain_momentum, pretrain_decay: Of the machines.
    """

    units: tuple[int, ...] = field(default=(128, 64), metadata={"low": 1, "high": 8192})
    visible: Literal["gaussian", "binary"] = "gaussian"
    label_units: bool = False
    dropout: float = field(default=0.0, metadata={"low": 0, "high": 0.95})
    cd: int = field(default=1, metadata={"low": 1, "high": 100})
    pretrain_epochs: int = field(default=30, metadata={"low": 0, "high": 10_000})
    pretrain_lr: float = field(default=0.1, metadata={"low": 1e-8, "high": 10})
    pretrain_momentum: float = field(default=0.5, metadata={"low": 0, "high": 0.999})
    pretrain_decay: float = field(default=2e-4, metadata={"low": 0, "high": 1})


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """An untrained estimator. Raises SpecError on options it does not have, and on label units without one class per sample."""
    architecture, training, augment = read_options(family, Architecture, Training, Augment)
    where = f"{spec.name}: kind '{family.kind}'"
    if spec.target.kind == "dense" or (architecture.label_units and spec.target.kind == "multilabel"):
        allowed = "binary, multiclass, ordinal, hierarchical" + ("" if architecture.label_units else ", multilabel")
        raise SpecError("this family needs classes of a whole sample", where=where, got=f"target '{spec.target.kind}'", allowed=allowed)
    inputs = math.prod(spec.input.shape)

    def pretrain(module: nn.Module, given: Given) -> None:
        prepare(module, given, architecture)
        if architecture.pretrain_epochs:
            pretrain_machines(module, given, architecture, batch=family.batch)

    return TorchEstimator(spec, family, lambda: network(inputs, spec.n_scores, architecture), training=training, augment=augment, pretrain=pretrain)


def network(inputs: int, n_scores: int, architecture: Architecture) -> nn.Module:
    """(N, ...) in [0, 1] -> (N, n_scores) logits; its parts are `prepare`, `layers.<n>` and `head`."""
    from torch import nn

    sizes = (inputs, *architecture.units)
    layers = [nn.Sequential(nn.Linear(n, units), nn.Sigmoid()) for n, units in pairwise(sizes)]
    whole = nn.Sequential()
    whole.add_module("prepare", nn.Sequential(nn.Flatten(), standardise(inputs) if architecture.visible == "gaussian" else nn.Identity()))
    if architecture.label_units:
        whole.add_module("layers", nn.Sequential(*layers[:-1]))
        whole.add_module("head", _free_energy_head(sizes[-2], sizes[-1], n_scores))
    else:
        whole.add_module("layers", nn.Sequential(*layers))
        dropout = [nn.Dropout(architecture.dropout)] if architecture.dropout else []
        whole.add_module("head", nn.Sequential(*dropout, nn.Linear(sizes[-1], n_scores)))
    return whole


def prepare(module: nn.Module, given: Given, architecture: Architecture) -> None:
    """Mean and deviation of every input from the training split."""
    if architecture.visible == "gaussian":
        measure(module.get_submodule("prepare.1"), given.train)


def pretrain_machines(module: nn.Module, given: Given, architecture: Architecture, *, batch: int) -> list[list[float]]:
    """Train the machines one after the other and put their weights into the network; a finished one never changes again.

    Returns:
        The mean reconstruction error of every epoch, for each machine.
    """
    import torch

    a, losses = architecture, []
    sizes = [math.prod(given.train.batch(np.arange(1)).shape[1:]), *a.units]
    layers = list(module.get_submodule("layers").children())
    for number, units in enumerate(a.units):
        top = a.label_units and number == len(a.units) - 1
        head = module.get_submodule("head")
        classes = head.get_parameter("label_bias").numel() if top else 0
        gaussian = number == 0 and a.visible == "gaussian"
        stage = f"machine-{number + 1}"
        torch.manual_seed(mixed_seed(given.seed, number, "machine"))
        machine = rbm(sizes[number] + classes, units, gaussian=gaussian, labels=classes)
        machine.weights.to(given.device)
        lr = a.pretrain_lr * (0.1 if gaussian else 1.0)
        parts = [
            {"params": [machine.weights["weight"]], "weight_decay": a.pretrain_decay},
            {"params": [machine.weights["hidden"], machine.weights["visible"]], "weight_decay": 0.0},
        ]
        optimiser = torch.optim.SGD(parts, lr=lr, momentum=a.pretrain_momentum)
        frozen = torch.nn.Sequential(module.get_submodule("prepare"), *layers[:number]).eval()
        # The class is known for the training split only.
        samples = given.train if top else given.inputs
        labels = torch.nn.functional.one_hot(torch.as_tensor(samples.labels).long(), classes).float().to(given.device) if top else None

        def epoch(
            at: int, stage=stage, machine=machine, optimiser=optimiser, frozen=frozen, samples=samples, labels=labels
        ) -> float:  # fmt: skip
            noise, total, n = given.generator(f"{stage} noise", at), 0.0, 0
            for x, rows in given.batches(stage, at, batch, samples):
                with torch.no_grad():
                    v = frozen(x)
                    if labels is not None:
                        v = torch.cat([v, labels[torch.from_numpy(rows).to(labels.device)]], dim=1)
                total += machine.contrast(v, steps=a.cd, generator=noise) * len(rows)
                optimiser.step()
                n += len(rows)
            return total / n

        losses.append(given.stage(stage, a.pretrain_epochs, machine.weights, optimiser, epoch))
        with torch.no_grad():
            own = machine.weights
            if top:
                n = sizes[number]
                for name, value in (
                    ("weight", own["weight"][:, :n]), ("labels", own["weight"][:, n:]), ("bias", own["hidden"]), ("label_bias", own["visible"][n:])
                ):  # fmt: skip
                    head.get_parameter(name).copy_(value)
            else:
                layers[number].get_parameter("0.weight").copy_(own["weight"])
                layers[number].get_parameter("0.bias").copy_(own["hidden"])
    return losses


def _free_energy_head(inputs: int, units: int, classes: int) -> nn.Module:
    """(N, inputs) -> (N, classes): minus the free energy of (inputs, class), without what all classes share."""
    import torch
    from torch import nn

    class FreeEnergy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(units, inputs))
            self.labels = nn.Parameter(torch.empty(units, classes))
            self.bias = nn.Parameter(torch.zeros(units))
            self.label_bias = nn.Parameter(torch.zeros(classes))
            nn.init.xavier_uniform_(self.weight)
            nn.init.xavier_uniform_(self.labels)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            driven = nn.functional.linear(x, self.weight, self.bias)
            return self.label_bias + nn.functional.softplus(driven.unsqueeze(2) + self.labels).sum(dim=1)

    return FreeEnergy()
