"""Deep belief network over the spectra of a window of worn sensors: `dbn` behind the front end of `cnn-1d`.

A machine's visible units have no order, so a shifted sine is another input to them; its spectrum is the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.imaging.augment import Augment
from components.core.models import dbn
from components.core.models.family_options import read_options
from components.core.models.samples import Samples
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.models.torch_pretrain import Given
from components.core.models.torch_spectrum import Front, Layout, bins_of, layout, spectra
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    from torch import nn


def build(spec: DiseaseSpec, family: Family) -> TorchEstimator:
    """An untrained estimator. Raises SpecError on options it does not have and on inputs that are no windows."""
    front, architecture, training, augment = read_options(family, Front, dbn.Architecture, Training, Augment)
    sizes = layout(spec, family, front)

    def pretrain(module: nn.Module, given: Given) -> None:
        inner, eyes = module.get_submodule("machines"), module.get_submodule("spectra").eval()
        seen = replace(given, train=seen_through(eyes, given.train), inputs=seen_through(eyes, given.inputs))
        dbn.prepare(inner, seen, architecture)
        if architecture.pretrain_epochs:
            dbn.pretrain_machines(inner, seen, architecture, batch=family.batch)

    made = lambda: network(spec.n_scores, front, sizes, architecture)  # noqa: E731
    return TorchEstimator(spec, family, made, training=training, augment=augment, pretrain=pretrain)


def network(n_scores: int, front: Front, sizes: Layout, architecture: dbn.Architecture) -> nn.Module:
    """(N, channels, samples) in [0, 1] -> (N, n_scores) logits; its parts are `spectra` and `machines`, a `dbn` network."""
    from torch import nn

    whole = nn.Sequential()
    whole.add_module("spectra", spectra(front, sizes))
    whole.add_module("machines", dbn.network(sizes.frames * sizes.channels * bins_of(front, sizes), n_scores, architecture))
    return whole


def seen_through(eyes: nn.Module, samples: Samples) -> Samples:
    """The same samples as spectra, flattened."""
    import torch

    device = next(eyes.buffers()).device

    def batch(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.no_grad():
            return eyes(torch.from_numpy(np.ascontiguousarray(samples.batch(rows))).to(device)).flatten(1).cpu().numpy()

    return replace(samples, batch=batch)
