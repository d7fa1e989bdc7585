"""The one contract of all model families."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from components.core.models.samples import Samples

BESIDE = "samples+"
"""Before the name of hand-made features: samples and features side by side."""
Epoch = dict[str, float]
"""One epoch's figures: `epoch` (from 1), `train_loss`, `val_loss`, `val_auc` (absent when validation holds one class), `seconds`."""


class Estimator(Protocol):
    """A trainable model. Inputs are (N, *input.shape) float32 in [0, 1], scores are (N, n_scores) unbounded logits.

    For a softmax-like target the calibrated probability is softmax((scores + bias) / temperature); see `components/core/calibration.py`.
    """

    feature_name: str | None
    """What the ONNX file takes: None for the samples themselves, else the features of `onnx_input(feature_name, x)`.

    Hand-made features (segmentation, counting) are no neural-network operations; their family exports what follows them. An ensemble of both
    sorts takes `samples+<name>`: each sample's values in a row, then its features.
    """

    def fit(
        self, train: Samples, val: Samples, *, seed: int, checkpoint: Path, on_epoch: Callable[[Epoch], None], unlabelled: Samples | None = None
    ) -> list[Epoch]:
        """Train to the best epoch on `val`. Same seed and data give the same weights. Resumes from `checkpoint` (a folder) if it holds one.

        `unlabelled` is another source domain that families with unsupervised pre-training learn from first; others leave it.

        Calls `on_epoch` after every epoch, also for epochs restored from a checkpoint. Returns all of them; the best has the highest
        `val_auc`, then the lowest `val_loss`.
        """
        ...

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, *input.shape) in [0, 1] -> (N, n_scores) logits."""
        ...

    def save(self, folder: Path) -> None:
        """Write the weights as `model.safetensors` into an existing folder."""
        ...

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. Raises DataError when the file does not fit."""
        ...

    def export_onnx(self, path: Path) -> None:
        """One ONNX file, input `x` (N, *input.shape) in [0, 1] or (N, F) features, output `scores` (N, n_scores); N is free."""
        ...

    @property
    def epochs(self) -> int:
        """The most epochs that `fit` will report."""
        ...

    @property
    def n_parameters(self) -> int:
        """Trained numbers."""
        ...


def onnx_input(feature_name: str | None, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a model's ONNX file takes: `x` itself, or its features by name.

    Args:
        feature_name: `Estimator.feature_name`, also in `model.json`; names a module `components/core/features/<name>.py` with `features(x)`.
        x: (N, *input.shape) in [0, 1].
    """
    if feature_name is None:
        return x
    if feature_name.startswith(BESIDE):
        return np.concatenate([x.reshape(len(x), -1), onnx_input(feature_name.removeprefix(BESIDE), x)], axis=1)
    return importlib.import_module(f"components.core.features.{feature_name}").features(x)
