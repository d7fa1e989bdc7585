"""Layers that the families with unsupervised pre-training share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from components.core.models.samples import Samples

if TYPE_CHECKING:
    import torch
    from torch import nn

CONSTANT = 1e-6  # a column whose deviation is a smaller share of its largest value carries nothing


def standardise(n: int) -> nn.Module:
    """(N, n) -> (N, n) with mean 0 and deviation 1 over the samples that `measure` saw; before that, the input itself.

    Mean and deviation are part of the weights: saved, exported, and the same wherever the model goes.
    """
    import torch
    from torch import nn

    class Standardise(nn.Module):
        mean: torch.Tensor
        sd: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(n))
            self.register_buffer("sd", torch.ones(n))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - self.mean) / self.sd

    return Standardise()


def measure(layer: nn.Module, samples: Samples, *, size: int = 512) -> None:
    """Set a `standardise` layer from samples, in two passes of double precision. A constant column becomes 0 everywhere it has its value."""
    import torch

    n = len(samples)
    chunks = [np.arange(i, min(i + size, n)) for i in range(0, n, size)]

    def flat(rows: np.ndarray) -> np.ndarray:
        return np.asarray(samples.batch(rows), dtype=np.float64).reshape(len(rows), -1)

    mean = sum(flat(rows).sum(axis=0) for rows in chunks) / n
    sd = np.sqrt(sum(((flat(rows) - mean) ** 2).sum(axis=0) for rows in chunks) / n)
    largest = np.max([np.abs(flat(rows)).max(axis=0) for rows in chunks], axis=0)
    sd = np.where(sd > CONSTANT * largest, sd, 1.0)
    state = {"mean": torch.from_numpy(np.asarray(mean)).float(), "sd": torch.from_numpy(sd).float()}
    layer.load_state_dict(state)
