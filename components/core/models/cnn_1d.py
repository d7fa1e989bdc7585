"""One-dimensional convolutional network over the spectra of a window: freezing of gait as Camps et al. 2018 see it.

As published (doi:10.1016/j.knosys.2017.10.017): the spectra of the judged window and of the one before it stand beside each other as
channels, and eight convolutions run along the frequency; `maps` has one entry for each. The default is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from components.core.errors import SpecError
from components.core.imaging.augment import Augment
from components.core.models.family_options import read_options
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.models.torch_spectrum import Front, Layout, bins_of, layout, spectra
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Architecture:
    """The network behind the spectra.

    Args:
        maps: Feature maps of each convolution.
        kernel: Its width in bins; odd.
        pool: Halve the bins after every so many convolutions.
        batch_norm: Normalise after each convolution.
        hidden: Units of the fully connected layer before the scores; 0 has none.
        dropout: Before each fully connected layer.
    """

    maps: tuple[int, ...] = field(default=(16, 32, 32), metadata={"low": 1, "high": 1024})
    kernel: int = field(default=3, metadata={"low": 1, "high": 31})
    pool: int = field(default=1, metadata={"low": 1, "high": 16})
    batch_norm: bool = True
    hidden: int = field(default=0, metadata={"low": 0, "high": 8192})
    dropout: float = field(default=0.2, metadata={"low": 0, "high": 0.95})


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """An untrained estimator. Raises SpecError on options it does not have and on inputs that are no windows."""
    front, architecture, training, augment = read_options(family, Front, Architecture, Training, Augment)
    sizes = layout(spec, family, front)
    bins_left(sizes, front, architecture, where=f"{spec.name}: kind '{family.kind}'")
    return TorchEstimator(spec, family, lambda: network(spec.n_scores, front, sizes, architecture), training=training, augment=augment)


def bins_left(sizes: Layout, front: Front, a: Architecture, *, where: str) -> int:
    """Bins after the last pooling. Raises SpecError when none are, or the kernel has no middle."""
    if a.kernel % 2 == 0:
        raise SpecError("a kernel without a middle", where=f"{where}, options.kernel", got=a.kernel, allowed="an odd number")
    left = bins_of(front, sizes) // 2 ** (len(a.maps) // a.pool)
    if left < 1:
        raise SpecError(
            "spectra vanish in the network", where=f"{where}, options", got=f"{bins_of(front, sizes)} bins, {len(a.maps) // a.pool} times halved",
            allowed="fewer maps, a larger pool or fewer frames",
        )  # fmt: skip
    return left


def convolutions(channels: int, a: Architecture) -> nn.Sequential:
    """(N, channels, bins) -> (N, maps[-1], bins left)."""
    from torch import nn

    layers: list[nn.Module] = []
    for number, maps in enumerate(a.maps, start=1):
        layers += [nn.Conv1d(channels, maps, a.kernel, padding=a.kernel // 2, bias=not a.batch_norm)]
        layers += [nn.BatchNorm1d(maps)] if a.batch_norm else []
        layers += [nn.ReLU()]
        layers += [nn.MaxPool1d(2)] if number % a.pool == 0 else []
        channels = maps
    return nn.Sequential(*layers)


def network(n_scores: int, front: Front, sizes: Layout, a: Architecture) -> nn.Module:
    """(N, channels, samples) in [0, 1] -> (N, n_scores) logits."""
    from torch import nn

    class Cnn1d(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spectra = spectra(front, sizes)
            self.convolutions = convolutions(sizes.frames * sizes.channels, a)
            features = a.maps[-1] * bins_left(sizes, front, a, where="network")
            dropout = [nn.Dropout(a.dropout)] if a.dropout else []
            hidden = [*dropout, nn.Linear(features, a.hidden), nn.ReLU()] if a.hidden else []
            self.scores = nn.Sequential(*hidden, *dropout, nn.Linear(a.hidden or features, n_scores))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scores(self.convolutions(self.spectra(x).flatten(1, 2)).flatten(1))

    return Cnn1d()
