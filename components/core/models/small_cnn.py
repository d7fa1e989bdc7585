"""A plain convolutional network for small images, 8 x 8 pixels and upward, grey or in colour; the reference that others are held against.

Each stage is a 3 x 3 convolution, 2 x 2 max-pooling and further convolutions at the pooled size, plain or around shortcuts (`residual`).
What is left of the image goes into the scores as mean and as maximum of each map: a texture shows in the one, a single small lesion in the
other, and neither depends on where in the image it is. With few photographs the maximum follows the loudest place, often no lesion: `pool` "mean".
Where lamp, lens and pigment differ more than lesions do, `background` takes the slow part of every photograph away before anything is learned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from components.core.errors import SpecError
from components.core.imaging.augment import Augment
from components.core.models.family_options import read_options
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """The network.

    Args:
        maps: Feature maps of each stage; a stage halves the image.
        blocks: Convolutions at a stage's pooled size; with `residual`, pairs of them.
        residual: Blocks are added to what they start from (He et al., CVPR 2016, the basic block).
        batch_norm: Normalise after each convolution.
        input_norm: Bring each channel to mean 0 and deviation 1 of the training images first, as a layer of the network: without it, bright
            photographs that differ little keep most maps on one side of the ReLU.
        background: Width (standard deviation, pixels) of the Gaussian whose blur is subtracted from each channel before all else, as a fixed
            layer; 0 subtracts nothing. Graham did so for the Kaggle retinopathy set of 2015; spots wider than it fade.
        pool: What of each map goes into the scores: "mean-max", or "mean" alone.
        dropout: Before the scores.
    """

    maps: tuple[int, ...] = field(default=(16, 32, 64), metadata={"low": 1, "high": 2048})
    blocks: int = field(default=1, metadata={"low": 0, "high": 16})
    residual: bool = False
    batch_norm: bool = True
    input_norm: bool = False
    background: float = field(default=0.0, metadata={"low": 0, "high": 64})
    pool: Literal["mean-max", "mean"] = "mean-max"
    dropout: float = field(default=0.0, metadata={"low": 0, "high": 0.95})


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """An untrained estimator. Raises SpecError on options it does not have and on inputs that are no images or too small."""
    architecture, training, augment = read_options(family, Architecture, Training, Augment)
    where, least = f"{spec.name}: kind '{family.kind}'", 2 ** len(architecture.maps)
    if len(spec.input.shape) != 3:
        raise SpecError("this family takes images", where=where, got=f"shape {list(spec.input.shape)}", allowed="[channels, height, width]")
    if min(spec.input.shape[1:]) < least:
        raise SpecError("images vanish in the network", where=where, got=f"{list(spec.input.shape[1:])} pixels", allowed=f"{least}, or fewer maps")
    return TorchEstimator(spec, family, lambda: network(spec.input.shape[0], spec.n_scores, architecture), training=training, augment=augment)


def network(channels: int, n_scores: int, architecture: Architecture) -> nn.Module:
    """(N, channels, H, W) in [0, 1] -> (N, n_scores) logits; H and W at least 2^stages."""
    import torch
    from torch import nn

    a = architecture

    class Block(nn.Module):
        def __init__(self, maps: int) -> None:
            super().__init__()
            second = [nn.ReLU(inplace=True), *_convolution(maps, maps, a.batch_norm)] if a.residual else []
            self.path = nn.Sequential(*_convolution(maps, maps, a.batch_norm), *second)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.relu(x + self.path(x) if a.residual else self.path(x))

    class Summary(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean = x.mean(dim=(2, 3))
            return mean if a.pool == "mean" else torch.cat([mean, x.amax(dim=(2, 3))], dim=1)

    layers: list[nn.Module] = [less_background(channels, a.background)] if a.background else []
    layers += [nn.BatchNorm2d(channels, affine=False)] if a.input_norm else []
    for maps in a.maps:
        convolution, *norm = _convolution(channels, maps, a.batch_norm)
        # ReLU keeps order, so it may follow the pooling: the same maxima from a quarter of the values.
        layers += [convolution, nn.MaxPool2d(2), *norm, nn.ReLU(inplace=True), *(Block(maps) for _ in range(a.blocks))]
        channels = maps
    dropout = [nn.Dropout(a.dropout)] if a.dropout else []
    return nn.Sequential(*layers, Summary(), *dropout, nn.Linear(channels if a.pool == "mean" else 2 * channels, n_scores))


def less_background(channels: int, sigma: float) -> nn.Module:
    """(N, channels, H, W) less its own Gaussian blur of `sigma` pixels, cut at two widths; beyond the border the border's values go on.

    Nothing in it is trained or saved: the spec says all of it.
    """
    import torch
    from torch import nn

    class LessBackground(nn.Module):
        down: torch.Tensor
        across: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            reach = max(1, round(2 * sigma))
            line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
            line = (line / line.sum()).expand(channels, 1, -1)
            self.register_buffer("down", line[..., None].clone(), persistent=False)
            self.register_buffer("across", line[:, :, None].clone(), persistent=False)
            self.reach = reach

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = nn.functional.pad(x, (self.reach,) * 4, mode="replicate")
            blurred = nn.functional.conv2d(nn.functional.conv2d(wide, self.down, groups=channels), self.across, groups=channels)
            return x - blurred

    return LessBackground()


def _convolution(before: int, after: int, batch_norm: bool) -> list[nn.Module]:
    from torch import nn

    convolution = nn.Conv2d(before, after, 3, padding=1, bias=not batch_norm)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    return [convolution, *([nn.BatchNorm2d(after)] if batch_norm else [])]
