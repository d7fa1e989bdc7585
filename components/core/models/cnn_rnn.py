"""Convolutional and recurrent network over a window's short spectra: convolutions along the frequency of each frame, then an LSTM or a GRU
along the frames; the scores come from its last state.

Freezing builds up: the steps grow short and quick before they stop, so the order of the spectra tells more than their heap.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from components.core.imaging.augment import Augment
from components.core.models.cnn_1d import Architecture, bins_left, convolutions
from components.core.models.family_options import read_options
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.models.torch_spectrum import Front, Layout, layout, spectra
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Recurrence:
    """What runs along the frames.

    Args:
        cell: Long short-term memory (Hochreiter and Schmidhuber 1997) or gated recurrent unit (Cho et al. 2014).
        units: Size of its state.
    """

    cell: Literal["lstm", "gru"] = "lstm"
    units: int = field(default=32, metadata={"low": 1, "high": 4096})


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """An untrained estimator. Raises SpecError on options it does not have and on inputs that are no windows."""
    front, architecture, recurrence, training, augment = read_options(family, Front, Architecture, Recurrence, Training, Augment)
    sizes = layout(spec, family, front)
    bins_left(sizes, front, architecture, where=f"{spec.name}: kind '{family.kind}'")
    made = lambda: network(spec.n_scores, front, sizes, architecture, recurrence)  # noqa: E731
    return TorchEstimator(spec, family, made, training=training, augment=augment)


def network(n_scores: int, front: Front, sizes: Layout, a: Architecture, r: Recurrence) -> nn.Module:
    """(N, channels, samples) in [0, 1] -> (N, n_scores) logits."""
    import torch
    from torch import nn

    class CnnRnn(nn.Module):
        zeros: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.spectra = spectra(front, sizes)
            self.convolutions = convolutions(sizes.channels, a)
            features = a.maps[-1] * bins_left(sizes, front, a, where="network")
            self.register_buffer("zeros", torch.zeros(1, r.units), persistent=False)
            self.recurrence = (nn.LSTM if r.cell == "lstm" else nn.GRU)(features, r.units, batch_first=True)
            dropout = [nn.Dropout(a.dropout)] if a.dropout else []
            hidden = [*dropout, nn.Linear(r.units, a.hidden), nn.ReLU()] if a.hidden else []
            self.scores = nn.Sequential(*hidden, *dropout, nn.Linear(a.hidden or r.units, n_scores))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            framed = self.spectra(x)
            features = self.convolutions(framed.flatten(0, 1)).reshape(-1, sizes.frames, self.recurrence.input_size)
            # The state before the first frame, made from the input: tracing would turn plain zeros into a constant of its own batch size.
            nothing = (features[:, 0, :1] @ self.zeros)[None]
            states, _ = self.recurrence(features, (nothing, nothing) if r.cell == "lstm" else nothing)
            return self.scores(states[:, -1])

    return CnnRnn()
