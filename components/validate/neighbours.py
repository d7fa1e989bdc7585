"""Do test samples have siblings in training? A statistical answer for sources that name no patients.

Neighbouring slices of one head, frames of one film or windows of one recording are no copies of each other, and hashes do not find them. But
they lie far closer than samples of independent persons can. Two arguments, neither of which needs an id:

    ranks    Independent samples of a cloud of dimension m have their j nearest neighbours at distances that follow from m alone
             (Levina and Bickel 2004; Facco et al. 2017). m is measured over the 10th to the 30th neighbour; a nearest neighbour that is much
             closer than the 10th allows (p < 1e-5 on that law) comes from something else than the cloud.
    mirror   The same samples left to right are as plausible, and nobody's sibling. Whatever in the data breaks the law (clusters, textures)
             breaks it for them too, so their share is what independent samples would show.

The excess of surprising neighbours over the mirrored ones is the share of test samples with a sibling in training. Measured in
docs/decisions/0131-siblings-across-a-split.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import Dataset

if TYPE_CHECKING:
    import pandas as pd

LIMIT = 0.05  # share of test samples with a sibling in training above which the check warns; 0131 has what independent samples reach
INNER, OUTER = 10, 30  # ranks between which the dimension of the cloud is measured
SURPRISE = 1e-5  # probability of so close a neighbour among independent samples
MOST_TEST, MOST_TRAIN = 1500, 20_000  # samples compared, evenly spread over what there is
VALUES = 2304  # values of a sample that are compared, by means of blocks
READ, BLOCK = 256, 128  # samples in memory at a time; rows of the table of distances
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Siblings:
    """Of `n` test samples: the shares whose nearest training sample is surprisingly close, as they are and left to right."""

    n: int
    share: float
    mirrored: float

    @property
    def excess(self) -> float:
        return self.share - self.mirrored


def judged(dataset: Dataset, rows: pd.DataFrame) -> tuple[bool, str, dict[str, float | int]]:
    """Whether the test rows stand apart from train and val, in words and in figures.

    Args:
        rows: Of the manifest; its index is the samples' numbers.
    """
    test, train = (rows.index[rows["split"].isin(names)].to_numpy(np.int64) for names in (["test"], ["train", "val"]))
    found = siblings(dataset, test, train)
    if found is None:
        return True, "too few samples to tell", {"samples": len(test)}
    text = (
        f"{found.share:.1%} of {found.n} test samples have a neighbour in train or val that is closer than independent samples come "
        f"(left to right {found.mirrored:.1%}): about {max(found.excess, 0):.0%} have a sibling there"
    )
    return found.excess <= LIMIT, text, {"samples": found.n, "share": round(found.share, 6), "mirrored": round(found.mirrored, 6)}


def siblings(dataset: Dataset, test: NDArray[np.int64], train: NDArray[np.int64]) -> Siblings | None:
    """Compare test rows with training rows; None where there are too few (or too alike) to say anything.

    Every sample is reduced to block means, brought to mean 0 and length 1, loses the symmetric part of the mean image (heads photographed alike
    are not siblings), and is brought to length 1 again: gain and offset of a device do not matter.
    """
    test, train = _spread(test, MOST_TEST), _spread(train, MOST_TRAIN)
    if len(train) <= 2 * OUTER or len(test) < OUTER:
        return None
    base, shape = _planes(dataset, train)
    queries, _ = _planes(dataset, test)
    mirrored = queries.reshape(len(queries), -1, shape[-1])[..., ::-1].reshape(len(queries), -1)
    mean = base.mean(axis=0, dtype=np.float64).astype(np.float32)
    mean = (mean + mean.reshape(-1, shape[-1])[:, ::-1].ravel()) / 2
    base = _unit(base - mean)
    plain, mirror = (_surprising(_nearest(_unit(q - mean), base)) for q in (queries, mirrored))
    return None if plain is None or mirror is None else Siblings(len(test), plain, mirror)


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).astype(np.int64))] if len(rows) else rows


def _planes(dataset: Dataset, rows: NDArray[np.int64]) -> tuple[Floats, tuple[int, ...]]:
    """(n, values) block means, each sample with mean 0 and length 1, and the shape that they have in space."""
    shape = tuple(dataset.info["shape"])
    spatial = len(shape) - 1
    step = max(1, int(np.ceil((np.prod(shape) / VALUES) ** (1 / spatial))))
    parts = []
    small: tuple[int, ...] = shape
    for start in range(0, len(rows), READ):
        x = dataset.read(rows[start : start + READ]).astype(np.float32)
        for axis in range(2, 2 + spatial):  # channels stay apart
            blocks = max(1, x.shape[axis] // step)
            x = np.take(x, range(blocks * (x.shape[axis] // blocks)), axis=axis)
            x = x.reshape(*x.shape[:axis], blocks, -1, *x.shape[axis + 1 :]).mean(axis=axis + 1)
        small = x.shape[1:]
        x = x.reshape(len(x), -1)
        parts.append(_unit(x - x.mean(axis=1, keepdims=True)))
    return np.concatenate(parts), small


def _unit(x: Floats) -> Floats:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _nearest(queries: Floats, base: Floats) -> Floats:
    """(n, OUTER) distances to the nearest training samples, closest first."""
    out = np.empty((len(queries), OUTER), np.float32)
    for start in range(0, len(queries), BLOCK):
        correlation = queries[start : start + BLOCK] @ base.T
        top = -np.sort(-np.partition(correlation, len(base) - OUTER, axis=1)[:, -OUTER:], axis=1)
        out[start : start + BLOCK] = np.sqrt(np.maximum(2 - 2 * top, 1e-9))
    return out


def _surprising(distance: Floats) -> float | None:
    """Share of samples whose nearest neighbour is too close for the cloud that their 10th to 30th neighbours show.

    Among independent samples the INNER - 1 neighbours inside radius r fill an m-dimensional ball evenly, so the closest lies within d of the
    centre with probability 1 - (1 - (d / r)^m)^(INNER - 1).
    """
    spread = float(np.log(distance[:, -1:] / distance[:, INNER - 1 : -1]).mean())
    if spread < 1e-6:  # everything is equally far: constant or random bytes
        return None
    filled = (distance[:, 0] / distance[:, INNER - 1]).astype(np.float64) ** (1 / spread)
    p = -np.expm1((INNER - 1) * np.log1p(-np.minimum(filled, 1 - 1e-12)))
    return float((p < SURPRISE).mean())
