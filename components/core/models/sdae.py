"""Stacked denoising auto-encoder (Vincent et al., JMLR 2010): each layer learns to restore a corrupted input, then a classifier is fine-tuned.

Takes tables, images and windows; whatever has more than one axis is flattened.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from components.core.errors import SpecError
from components.core.imaging.augment import Augment
from components.core.models import dbn
from components.core.models.family_options import read_options
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.models.torch_greedy import pretrain_layers
from components.core.models.torch_layers import measure
from components.core.models.torch_pretrain import Given
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """The network and its pre-training.

    Args:
        units: Sigmoid units of each layer.
        visible: `gaussian` standardises every input by the training split and restores it linearly with squared error; `binary` takes values
            in [0, 1] and restores them as probabilities with cross-entropy. Deeper layers are always of the second kind.
        noise: `masking` sets a share of each sample's inputs to 0, exactly; `gaussian` adds noise.
        corruption: Share of inputs that are masked, or standard deviation of the noise.
        tied: The decoder's weights are the encoder's, transposed.
        dropout: Before the scores.
        pretrain_epochs: Of each layer; 0 starts from random weights.
        pretrain_lr: Of Adam.
    """

    units: tuple[int, ...] = field(default=(128, 64), metadata={"low": 1, "high": 8192})
    visible: Literal["gaussian", "binary"] = "gaussian"
    noise: Literal["masking", "gaussian"] = "masking"
    corruption: float = field(default=0.25, metadata={"low": 0, "high": 1})
    tied: bool = True
    dropout: float = field(default=0.0, metadata={"low": 0, "high": 0.95})
    pretrain_epochs: int = field(default=30, metadata={"low": 0, "high": 10_000})
    pretrain_lr: float = field(default=1e-3, metadata={"low": 1e-8, "high": 10})


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """An untrained estimator. Raises SpecError on options it does not have and on dense targets."""
    architecture, training, augment = read_options(family, Architecture, Training, Augment)
    if spec.target.kind == "dense":
        raise SpecError("this family needs classes of a whole sample", where=f"{spec.name}: kind '{family.kind}'", got="target 'dense'")
    inputs = math.prod(spec.input.shape)
    layout = dbn.Architecture(units=architecture.units, visible=architecture.visible, dropout=architecture.dropout)

    def pretrain(module: nn.Module, given: Given) -> None:
        if architecture.visible == "gaussian":
            measure(module.get_submodule("prepare.1"), given.train)
        if architecture.pretrain_epochs:
            pretrain_encoders(module, given, architecture, batch=family.batch)

    return TorchEstimator(spec, family, lambda: dbn.network(inputs, spec.n_scores, layout), training=training, augment=augment, pretrain=pretrain)


def pretrain_encoders(module: nn.Module, given: Given, architecture: Architecture, *, batch: int) -> list[list[float]]:
    """Train the layers in place; see `torch_greedy.pretrain_layers`."""
    import torch
    from torch.nn import functional as F

    a = architecture
    encoders = list(module.get_submodule("layers").children())
    real = [number == 0 and a.visible == "gaussian" for number in range(len(encoders))]

    def corrupt(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        return mask(x, a.corruption, generator) if a.noise == "masking" else x + a.corruption * torch.randn(x.shape, generator=generator).to(x.device)

    return pretrain_layers(
        given, module.get_submodule("prepare"), encoders, lambda n: decoder(encoders[n].get_submodule("0"), tied=a.tied),
        epochs=a.pretrain_epochs, batch=batch, corrupt=corrupt,
        optimiser_of=lambda parameters: torch.optim.Adam(parameters, lr=a.pretrain_lr),
        loss_of=lambda n: F.mse_loss if real[n] else F.binary_cross_entropy_with_logits,
    )  # fmt: skip


def mask(x: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """(N, n) with exactly round(share * n) entries of each row set to 0, chosen without replacement."""
    import torch

    count = round(share * x.shape[1])
    rank = torch.rand(x.shape, generator=generator).argsort(dim=1).argsort(dim=1)
    return x * (rank >= count).to(x.device)


def decoder(encoder: nn.Module, *, tied: bool) -> nn.Module:
    """(N, units) -> (N, inputs) of a linear `encoder`: values, or logits where the loss takes them."""
    import torch
    from torch import nn

    assert isinstance(encoder, nn.Linear)
    if not tied:
        return nn.Linear(encoder.out_features, encoder.in_features)

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(encoder.in_features))

        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(h, encoder.weight.T, self.bias)

    return Tied()
