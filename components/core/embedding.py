"""A network's embedding in a few numbers: the principal directions of its training samples, each with spread 1 among them.

The drift monitor watches these numbers, so that images that have changed in a way no measured property shows are noticed all the same. The
directions are learned from training samples and the reference consists of others: a direction that fits its own samples by chance would
make every new window look different.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError

PREFIX = "embedding_"
MOST = 8
"""Directions that are watched: each costs the others a little of the level that they share."""
LEAST_VARIANCE = 0.01
"""Directions with less of the variance say little and are left out."""


@dataclass(frozen=True)
class Projection:
    """A linear map to at most `MOST` numbers.

    Args:
        mean: (d,).
        directions: (k, d), divided by the spread along them.
    """

    mean: NDArray[np.float64]
    directions: NDArray[np.float64]

    @classmethod
    def fit(cls, x: NDArray[np.floating]) -> Projection | None:
        """From embeddings (n, d) of training samples; None where they do not vary or are fewer than three. The same x gives the same answer."""
        values = np.asarray(x, dtype=np.float64)
        values = values[np.isfinite(values).all(axis=1)]
        if len(values) < 3:
            return None
        mean = values.mean(axis=0)
        _, spread, directions = np.linalg.svd(values - mean, full_matrices=False)
        variance = spread**2 / (len(values) - 1)
        if variance.sum() <= 1e-12:
            return None
        keep = np.flatnonzero(variance >= LEAST_VARIANCE * variance.sum())[:MOST]
        chosen = directions[keep]
        sign = np.sign(chosen[np.arange(len(keep)), np.abs(chosen).argmax(axis=1)])
        return cls(mean, chosen * (sign / np.sqrt(variance[keep]))[:, None])

    @property
    def names(self) -> tuple[str, ...]:
        """`embedding_1`, ...: columns of the reference."""
        return tuple(f"{PREFIX}{n + 1}" for n in range(len(self.directions)))

    def columns(self, embeddings: Sequence[NDArray[np.floating] | None]) -> dict[str, NDArray[np.float64]]:
        """Name -> (n,); not a number where there is no embedding, it is of another length, or it is not finite."""
        out = np.full((len(embeddings), len(self.directions)), np.nan)
        rows = [n for n, e in enumerate(embeddings) if e is not None and np.shape(e) == self.mean.shape]
        if rows:
            out[rows] = (np.stack([np.asarray(embeddings[n], dtype=np.float64) for n in rows]) - self.mean) @ self.directions.T
        out[~np.isfinite(out).all(axis=1)] = np.nan
        return dict(zip(self.names, out.T, strict=True))

    def to_json(self) -> str:
        """Nine digits: more than the network's."""
        return json.dumps({"mean": _short(self.mean), "directions": [_short(row) for row in self.directions]})

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Projection:
        """Raises DataError for anything that `to_json` did not write."""
        try:
            raw = json.loads(text)
            mean, directions = np.array(raw["mean"], dtype=np.float64), np.array(raw["directions"], dtype=np.float64)
        except (ValueError, KeyError, TypeError):
            raise DataError("not a projection of embeddings", where=where, allowed="mean, directions") from None
        fits = mean.ndim == 1 and directions.ndim == 2 and directions.shape[1] == len(mean) and 1 <= len(directions) <= MOST
        if not fits or not np.isfinite(mean).all() or not np.isfinite(directions).all():
            raise DataError("not a projection of embeddings", where=where, got=f"{mean.shape}, {directions.shape}", allowed=f"(d,), (1..{MOST}, d)")
        return cls(mean, directions)


def _short(row: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.9g}") for value in row]
