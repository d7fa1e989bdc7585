"""What a network is trained for, by kind of target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import torch


class Objective:
    """Loss over logits.

    One class per sample (binary, multi-class, ordinal, hierarchical): cross-entropy over the classes; an ordinal scale is scored by its
    classes and judged as a scale by the metrics. Multi-label: binary cross-entropy, mean over classes.

    Args:
        labels: Of the training split; class weights come from them.
        class_weights: Weigh each class by 1/frequency (mean weight 1) so that rare ones count as much as common ones.
        smoothing: Share of each one-class label that is spread over all classes, in [0, 1).
    """

    def __init__(self, spec: DiseaseSpec, labels: NDArray[np.int64] | NDArray[np.float32], *, class_weights: bool, smoothing: float) -> None:
        import torch

        if spec.target.kind == "dense":
            raise SpecError("no loss for dense targets in this family", where=f"{spec.name}: target.kind", got="'dense'")
        self.multilabel = spec.target.kind == "multilabel"
        self.n = spec.n_scores
        self.smoothing = smoothing
        self.weight: torch.Tensor | None = None
        if class_weights:
            if self.multilabel:
                positives = np.asarray(labels, dtype=np.float64).sum(axis=0)
                self.weight = torch.tensor((len(labels) - positives) / np.maximum(positives, 1), dtype=torch.float32)
            else:
                counts = np.bincount(labels.astype(np.int64), minlength=self.n).astype(np.float64)
                present = counts > 0
                inverse = np.where(present, counts.sum() / (present.sum() * np.maximum(counts, 1)), 0.0)
                self.weight = torch.tensor(inverse, dtype=torch.float32)

    def to(self, device: torch.device) -> Objective:
        self.weight = self.weight.to(device) if self.weight is not None else None
        return self

    def target(self, labels: NDArray[np.int64] | NDArray[np.float32]) -> torch.Tensor:
        """Labels as the loss takes them: (n,) int64, or (n, K) float32 for multi-label."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.float32 if self.multilabel else np.int64))

    def loss(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(n, K) logits and their targets -> mean loss."""
        from torch.nn import functional as F

        if self.multilabel:
            return F.binary_cross_entropy_with_logits(scores, target, pos_weight=self.weight)
        return F.cross_entropy(scores, target, weight=self.weight, label_smoothing=self.smoothing)
