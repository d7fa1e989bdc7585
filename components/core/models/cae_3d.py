"""The three-dimensional convolutional auto-encoder of Hosseini-Asl et al. 2016 (doi:10.1109/ICIP.2016.7532332) with its classifier.

As published: three stages of a 3 x 3 x 3 convolution to 8 maps, ReLU and 2 x 2 x 2 max-pooling, pre-trained to reconstruct volumes of
another data set; then fully connected layers of 2000, 500, 200 and 20 units and the classes; Adadelta with rho .95 and eps 1e-6 (at its
own rate: `lr = 1`). Convolutions are padded, so a volume needs 2 voxels per axis and stage, whatever it measures.

The published figures rest on volumes of about 100 voxels per axis; here each stage learns on its own, the earlier ones frozen, because
that needs the memory of one stage only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from components.core.errors import SpecError
from components.core.imaging.augment import Augment
from components.core.models.family_options import read_options
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.models.torch_greedy import pretrain_layers
from components.core.models.torch_pretrain import Given, Pretrain
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """The network and its pre-training.

    Args:
        maps: Feature maps of each stage.
        hidden: Units of the fully connected layers before the scores.
        batch_norm: Normalise after each convolution and each hidden layer.
        dropout: Before each fully connected layer.
        pretrain_epochs: Of each stage; 0 starts from random weights.
        pretrain_lr: 1 for Adadelta as published.
        encoder_rate: Learning rate of the convolutions in supervised training, as a share of `lr`; 0 keeps them as pre-trained.
    """

    maps: tuple[int, ...] = field(default=(8, 8, 8), metadata={"low": 1, "high": 512})
    hidden: tuple[int, ...] = field(default=(2000, 500, 200, 20), metadata={"low": 1, "high": 8192})
    batch_norm: bool = False
    dropout: float = field(default=0.0, metadata={"low": 0, "high": 0.95})
    pretrain_epochs: int = field(default=10, metadata={"low": 0, "high": 10_000})
    pretrain_lr: float = field(default=1.0, metadata={"low": 1e-8, "high": 100})
    encoder_rate: float = field(default=1.0, metadata={"low": 0, "high": 10})


@dataclass(frozen=True)
class PublishedTraining(Training):
    """`Training` with the published optimiser unless the family says otherwise."""

    schedule: Literal["constant", "cosine", "onecycle"] = "constant"
    optimiser: Literal["adamw", "sgd", "adadelta"] = "adadelta"


@dataclass(frozen=True)
class NoViews(Augment):
    """No random views unless the family asks for them."""

    flips: bool = False
    rotation: Literal["none", "quarter", "any"] = "none"


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """An untrained estimator. Raises SpecError on options it does not have and on inputs that are no volumes or too small."""
    architecture, training, augment = read_options(family, Architecture, PublishedTraining, NoViews)
    where = f"{spec.name}: kind '{family.kind}'"
    if len(spec.input.shape) != 4:
        raise SpecError("this family takes volumes", where=where, got=f"shape {list(spec.input.shape)}", allowed="[channels, depth, height, width]")
    sides(spec.input.shape[1:], architecture, where=where)
    return TorchEstimator(
        spec, family, lambda: network(spec.input.shape, spec.n_scores, architecture), training=training, augment=augment,
        pretrain=pretraining(architecture, family) if architecture.pretrain_epochs else None,
        share=lambda name: architecture.encoder_rate if name.startswith("encoder.") else 1.0,
    )  # fmt: skip


def sides(volume: tuple[int, ...], architecture: Architecture, *, where: str) -> tuple[int, ...]:
    """Voxels per axis after all stages. Raises SpecError when a volume vanishes."""
    out = tuple(side // 2 ** len(architecture.maps) for side in volume)
    if min(out) < 1:
        raise SpecError("volumes vanish in the network", where=where, got=list(volume), allowed=f"{2 ** len(architecture.maps)} voxels per axis")
    return out


def network(shape: tuple[int, ...], n_scores: int, architecture: Architecture) -> nn.Module:
    """(N, C, D, H, W) in [0, 1] -> (N, n_scores) logits; its parts are `encoder.<stage>` and `classifier`."""
    import math

    from torch import nn

    a = architecture
    stages = []
    for channels, maps in zip((shape[0], *a.maps), a.maps, strict=False):
        norm = [nn.BatchNorm3d(maps)] if a.batch_norm else []
        # ReLU keeps order, so it may follow the pooling: the same maxima from an eighth of the values.
        stages.append(nn.Sequential(nn.Conv3d(channels, maps, 3, padding=1), *norm, nn.MaxPool3d(2), nn.ReLU(inplace=True)))
    dense: list[nn.Module] = [nn.Flatten()]
    features = a.maps[-1] * math.prod(sides(shape[1:], a, where="network"))
    for units in a.hidden:
        dense += ([nn.Dropout(a.dropout)] if a.dropout else []) + [_linear(features, units)]
        dense += ([nn.BatchNorm1d(units)] if a.batch_norm else []) + [nn.ReLU(inplace=True)]
        features = units
    dense += ([nn.Dropout(a.dropout)] if a.dropout else []) + [nn.Linear(features, n_scores)]
    whole = nn.Sequential()
    whole.add_module("encoder", nn.Sequential(*stages))
    whole.add_module("classifier", nn.Sequential(*dense))
    return whole


def pretraining(architecture: Architecture, family: Family) -> Pretrain:
    """Each stage reconstructs its input: to the size before pooling by repeating voxels, then a 3 x 3 x 3 convolution back to its channels."""

    def pretrain(module: nn.Module, given: Given) -> None:
        import torch
        from torch import nn

        encoders = list(module.get_submodule("encoder").children())

        def decoder_of(number: int) -> nn.Module:
            convolution = encoders[number].get_submodule("0")
            assert isinstance(convolution, nn.Conv3d)
            return _decoder(convolution.out_channels, convolution.in_channels)

        def loss(made: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
            # A side of odd length loses its last plane in pooling; what is left of it cannot be asked for.
            depth, height, width = made.shape[2:]
            return nn.functional.mse_loss(made, clean[:, :, :depth, :height, :width])

        pretrain_layers(
            given, nn.Identity(), encoders, decoder_of, epochs=architecture.pretrain_epochs, batch=family.batch, loss_of=lambda _: loss,
            optimiser_of=lambda parameters: torch.optim.Adadelta(parameters, lr=architecture.pretrain_lr, rho=0.95, eps=1e-6),
        )  # fmt: skip

    return pretrain


def _decoder(maps: int, channels: int) -> nn.Module:
    from torch import nn

    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv3d(maps, channels, 3, padding=1))


def _linear(inputs: int, units: int) -> nn.Module:
    """Weights that keep the variance through ReLU (He et al. 2015): five such layers otherwise fade the signal."""
    from torch import nn

    layer = nn.Linear(inputs, units)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
