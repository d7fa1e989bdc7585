"""What a network is trained for, by kind of target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from components.core.errors import SpecError
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import torch

Loss = Literal["plain", "balanced", "effective", "focal"]
Floats = NDArray[np.float64]


class Objective:
    """Loss over logits.

    One class per sample (binary, multi-class, ordinal, hierarchical): cross-entropy over the classes; an ordinal scale is scored by its
    classes and judged as a scale by the metrics. Multi-label: binary cross-entropy, mean over classes.

    Where classes are rare, `loss` says what is done about it: `plain` nothing; `balanced` weighs each class by 1/frequency; `effective` by
    1/(effective number of its samples), which grows from 1/frequency's weights towards equal ones the more samples a class has; `focal`
    weighs each sample by how wrong it still is, (1 - p)^gamma, whatever its class.

    Args:
        labels: Of the training split; class weights come from them.
        smoothing: Share of each one-class label that is spread over all classes, in [0, 1).
        beta: Of `effective`, in [0, 1): 1 / (1 - beta) is the number of samples after which more of a class adds little.
        gamma: Of `focal`, 0 or more; 0 is `plain`.

    Source:
        Cui et al., CVPR 2019 (effective, eq. 2 and 4); Lin et al., ICCV 2017 (focal, eq. 4, without its alpha).
    """

    def __init__(
        self,
        spec: DiseaseSpec,
        labels: NDArray[np.int64] | NDArray[np.float32],
        *,
        loss: Loss = "plain",
        smoothing: float = 0.0,
        beta: float = 0.999,
        gamma: float = 2.0,
    ) -> None:
        import torch

        if spec.target.kind == "dense":
            raise SpecError("no loss for dense targets in this family", where=f"{spec.name}: target.kind", got="'dense'")
        self.multilabel = spec.target.kind == "multilabel"
        self.smoothing = smoothing
        self.gamma = gamma if loss == "focal" else 0.0
        self.weight: torch.Tensor | None = None
        if loss in ("balanced", "effective"):
            share = beta if loss == "effective" else None
            if self.multilabel:
                positives = np.asarray(labels, dtype=np.float64).sum(axis=0)
                pair = np.stack([len(labels) - positives, positives])
                weights = np.divide(*_rarity(pair, share)[::-1])  # of a positive, in units of a negative's
            else:
                weights = class_weights(np.bincount(np.asarray(labels, dtype=np.int64), minlength=spec.n_scores), beta=share)
            self.weight = torch.tensor(weights, dtype=torch.float32)

    def to(self, device: torch.device) -> Objective:
        self.weight = self.weight.to(device) if self.weight is not None else None
        return self

    def target(self, labels: NDArray[np.int64] | NDArray[np.float32]) -> torch.Tensor:
        """Labels as the loss takes them: (n,) int64, or (n, K) float32 for multi-label."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(labels, dtype=np.float32 if self.multilabel else np.int64))

    def loss(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """(n, K) logits and their targets -> mean loss."""
        import torch
        from torch.nn import functional as F

        if self.gamma and self.multilabel:
            wrong = torch.sigmoid(scores * (1 - 2 * target))  # the probability that the label is the other one
            return (wrong**self.gamma * F.binary_cross_entropy_with_logits(scores, target, reduction="none")).mean()
        if self.gamma:
            log_p = F.log_softmax(scores, dim=1)
            wanted = F.one_hot(target, scores.shape[1]) * (1 - self.smoothing) + self.smoothing / scores.shape[1]
            return -(wanted * (1 - log_p.exp()) ** self.gamma * log_p).sum(dim=1).mean()
        if self.multilabel:
            return F.binary_cross_entropy_with_logits(scores, target, pos_weight=self.weight)
        return F.cross_entropy(scores, target, weight=self.weight, label_smoothing=self.smoothing)


def class_weights(counts: NDArray[np.int64], *, beta: float | None = None) -> Floats:
    """Weight of each class, mean 1 over the samples; 0 for classes without one.

    Args:
        counts: (K,) samples of each class.
        beta: None weighs by 1/frequency, else by the effective number of samples.
    """
    n = np.asarray(counts, dtype=np.float64)
    weights = np.where(n > 0, _rarity(n, beta), 0.0)
    return weights * n.sum() / (weights * n).sum()


def _rarity(counts: Floats, beta: float | None) -> Floats:
    """1/n, or (1 - beta) / (1 - beta^n); a class without samples stands as one with one."""
    n = np.maximum(counts, 1)
    return 1 / n if beta is None else (1 - beta) / -np.expm1(n * np.log(beta)) if beta > 0 else np.ones_like(n)
