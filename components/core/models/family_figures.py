"""The figures of an epoch, by which every family chooses what it keeps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError
from components.core.log_odds import log_odds
from components.core.metrics import auc
from components.core.models.family import Epoch
from components.core.spec import DiseaseSpec


def best_epoch(history: list[Epoch]) -> Epoch:
    """The epoch whose weights are kept: highest `val_auc`, then lowest `val_loss`, then the earliest."""
    return min(history, key=lambda e: (-e.get("val_auc", 0.0), e["val_loss"], e["epoch"]))


def validation_figures(spec: DiseaseSpec, labels: NDArray[np.int64] | NDArray[np.float32], scores: NDArray[np.float32]) -> dict[str, float]:
    """`val_loss` (unweighted, nats) and `val_auc`: of the sum over `spec.positive_indices`, so that models are chosen by what is reported, or
    without a positive class the mean over the classes that validation holds and lacks.

    `val_auc` is absent where no class has both.
    """
    s = scores.astype(np.float64)
    if spec.target.kind == "multilabel":
        y = np.asarray(labels, dtype=np.float64)
        loss = float(np.mean(np.maximum(s, 0) - s * y + np.log1p(np.exp(-np.abs(s)))))
        pairs = [(y[:, k] > 0.5, s[:, k]) for k in range(s.shape[1])]
    else:
        y = np.asarray(labels, dtype=np.int64)
        shifted = s - s.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        loss = float(-np.mean(log_p[np.arange(len(y)), y]))
        if among := list(spec.positive_indices):
            pairs = [(np.isin(y, among), log_odds(log_p, among))]
        else:
            pairs = [(y == k, log_p[:, k]) for k in range(s.shape[1])]
    if not np.isfinite(loss):
        raise DataError("scores that are not finite on validation", where=f"{spec.name}: train")
    areas = [auc(positive, score) for positive, score in pairs if 0 < positive.sum() < len(positive)]
    return {"val_loss": loss} | ({"val_auc": float(np.mean(areas))} if areas else {})
