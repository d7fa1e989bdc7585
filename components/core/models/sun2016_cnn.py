"""The convolutional network of Sun et al. 2016 for CT nodule patches (doi:10.1117/12.2216307), with options to widen it.

As published: a 52 x 52 patch, three 5 x 5 convolutions without padding, each followed by 2 x 2 max-pooling
(52 -> 48 -> 24 -> 20 -> 10 -> 6 -> 3), then a fully connected layer. The defaults keep that shape.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from components.core.errors import SpecError
from components.core.imaging.augment import Augment
from components.core.models.family_options import read_options
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    import torch
    from torch import nn

KERNEL = 5


@dataclass(frozen=True)
class Architecture:
    """The network.

    Args:
        maps: Feature maps of each stage; a stage is one 5 x 5 convolution, pooling, ReLU, and what `residual` adds.
        batch_norm: Normalise after each convolution.
        residual: 3 x 3 convolutions added to each stage at its pooled resolution, each around a shortcut.
        hidden: Units of a hidden layer before the scores; 0 has none, as published.
        dropout: Before each fully connected layer.
        same: Pad the convolutions so that only pooling shrinks the image: needed below 36 pixels.
    """

    maps: tuple[int, ...] = field(default=(12, 8, 6), metadata={"low": 1, "high": 1024})
    batch_norm: bool = False
    residual: int = field(default=0, metadata={"low": 0, "high": 16})
    hidden: int = field(default=0, metadata={"low": 0, "high": 8192})
    dropout: float = field(default=0.0, metadata={"low": 0, "high": 0.95})
    same: bool = False


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """An untrained estimator. Raises SpecError on options it does not have and on inputs that are no images or too small."""
    architecture, training, augment = read_options(family, Architecture, Training, Augment)
    if len(spec.input.shape) != 3:
        raise SpecError(
            "this family takes images",
            where=f"{spec.name}: kind '{family.kind}'",
            got=f"shape {list(spec.input.shape)}",
            allowed="[channels, height, width]",
        )
    sizes(spec.input.shape[1:], architecture, where=f"{spec.name}: kind '{family.kind}'")
    return TorchEstimator(spec, family, lambda: network(spec.input.shape, spec.n_scores, architecture), training=training, augment=augment)


def sizes(image: tuple[int, ...], architecture: Architecture, *, where: str) -> list[tuple[int, ...]]:
    """Pixels per axis after each stage. Raises SpecError when an image vanishes."""
    out = []
    for stage in range(len(architecture.maps)):
        image = tuple((side - (0 if architecture.same else KERNEL - 1)) // 2 for side in image)
        if min(image) < 1:
            raise SpecError(
                "images vanish in the network",
                where=where,
                got=f"{list(image)} pixels after stage {stage + 1}",
                allowed="larger images, fewer maps, or same = true",
            )
        out.append(image)
    return out


def network(shape: tuple[int, ...], n_scores: int, architecture: Architecture) -> nn.Module:
    """(N, C, H, W) in [0, 1] -> (N, n_scores) logits."""
    from torch import nn

    a = architecture
    layers: list[nn.Module] = []
    channels = shape[0]
    for maps in a.maps:
        # ReLU keeps order, so it may follow the pooling: the same maxima from a quarter of the values.
        layers += [nn.Conv2d(channels, maps, KERNEL, padding=KERNEL // 2 if a.same else 0, bias=not a.batch_norm), nn.MaxPool2d(2)]
        layers += [nn.BatchNorm2d(maps)] if a.batch_norm else []
        layers += [nn.ReLU(inplace=True)]
        layers += [_residual(maps, batch_norm=a.batch_norm) for _ in range(a.residual)]
        channels = maps
    rows, columns = sizes(shape[1:], a, where="network")[-1]
    features = channels * rows * columns
    layers += [nn.Flatten()]
    dropout = [nn.Dropout(a.dropout)] if a.dropout else []
    if a.hidden:
        layers += [*dropout, nn.Linear(features, a.hidden), nn.ReLU(inplace=True)]
        features = a.hidden
    return nn.Sequential(*layers, *dropout, nn.Linear(features, n_scores))


def _residual(maps: int, *, batch_norm: bool) -> nn.Module:
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(maps, maps, 3, padding=1, bias=not batch_norm)
            self.norm = nn.BatchNorm2d(maps) if batch_norm else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + nn.functional.relu(self.norm(self.convolution(x)))

    return Residual()
