"""What an estimator trains on: labels in memory, samples read and normalised on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

IN_MEMORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Samples:
    """One split.

    Args:
        batch: Row numbers 0..n-1 of this split -> (len, *input.shape) float32 in [0, 1].
        labels: (n,) class indices, or (n, classes) for multi-label.
        groups: (n,) group ids, for intervals and group-wise folds.
        devices: (n,) keys of the devices, for sampling that balances them; None where they are not known.
    """

    batch: Callable[[NDArray[np.int64]], NDArray[np.float32]]
    labels: NDArray[np.int64] | NDArray[np.float32]
    groups: NDArray[np.object_]
    devices: NDArray[np.object_] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def all(self, size: int = 512) -> NDArray[np.float32]:
        """Every sample, in order; the caller knows that it fits."""
        return np.concatenate([self.batch(np.arange(i, min(i + size, len(self)))) for i in range(0, len(self), size)])

    def cached(self) -> Samples:
        """The same split held in memory as float32 when it takes at most `IN_MEMORY_BYTES`: normalised once, not once per epoch."""
        if not len(self):
            return self
        one = self.batch(np.arange(1))
        if one.nbytes * len(self) > IN_MEMORY_BYTES:
            return self
        held = self.all()
        return replace(self, batch=lambda rows: held[rows])
