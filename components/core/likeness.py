"""How far a sample lies from those that a model was tested on, as one number: a Mahalanobis distance over many figures at once.

Figures that are each within what is possible can be impossible together, so one distance with one limit finds what no limit on a single figure
can. The covariance is what samples of one device have in common, shrunk towards no correlation (few rows do not know it); a sample is compared with
the nearest device. The limit is honest about few patients: it is the bound that the next patient's samples stay below, from distances of patients
that took no part in the fit.

Source:
    Ledoit and Wolf, Journal of Multivariate Analysis 2004 (shrinkage).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError

Floats = NDArray[np.float64]
LEAST, LEAST_GROUPS = 30, 5
"""Samples, and patients (or whatever a split never parts), below which there is no measure."""
CENTRE, CENTRE_GROUPS = 20, 10  # rows and groups of a device that make it a centre of its own
MOST_OF = 0.95  # of a group's rows
PARTS = 10  # of the groups, each left out in turn
RIDGE = 0.01  # of a figure's own variance: the least that no other figure explains
MOST_FIGURES, MOST_CENTRES = 512, 256  # of a file


@dataclass(frozen=True)
class Likeness:
    """A learned measure.

    Args:
        names: (d,) of the figures.
        scale: (d,) spread of each figure about its device's mean.
        centres: (k, d) means of devices, in spreads.
        whitening: (d, d); rows make what is left of a figure after the ones before it.
        limit: Of `distance`: beyond it a sample is outside.
        n, groups: Samples and patients it was learned from.
    """

    names: tuple[str, ...]
    scale: Floats
    centres: Floats
    whitening: Floats
    limit: float
    n: int
    groups: int

    @classmethod
    def fit(
        cls, names: Sequence[str], x: Floats, groups: Sequence[str], devices: Sequence[str], *, floor: Floats, level: float, copies: int = 1
    ) -> Likeness | None:
        """Learn from rows (n, d); the same rows give the same measure.

        Args:
            groups: (n,): rows of one group are left out together.
            devices: (n,): rows of a device with `CENTRE` rows of `CENTRE_GROUPS` groups have a centre of their own.
            floor: (d,) least spread of each figure: a reference of one scanner varies less than scanners do.
            level: Share of new groups whose samples stay inside.
            copies: Rows that stand for one sample.

        Returns:
            None below `LEAST` samples or `LEAST_GROUPS` groups.
        """
        keep = np.isfinite(x).all(axis=1)
        x, group = x[keep], np.unique(np.asarray(groups, dtype=str)[keep], return_inverse=True)[1]
        device, n = np.asarray(devices, dtype=str)[keep], int(keep.sum()) // copies
        count = int(group.max()) + 1 if len(group) else 0
        if n < LEAST or count < LEAST_GROUPS:
            return None
        part = np.random.default_rng(0).permutation(count)[group] % min(PARTS, count)
        left_out = np.empty(len(x))
        for k in np.unique(part):
            left_out[part == k] = _distances(x[part == k], *_fit(x[part != k], group[part != k], device[part != k], floor, copies))
        scale, centres, whitening = _fit(x, group, device, floor, copies)
        return cls(tuple(names), scale, centres, whitening, bound(left_out, group, level), n, count)

    def distance(self, x: Floats) -> Floats:
        """(n,) root mean square over the d directions, of rows (n, d); infinite for a row with a value that is not finite."""
        known = np.isfinite(x).all(axis=1)
        out = np.full(len(x), np.inf)
        if known.any():
            with np.errstate(over="ignore", invalid="ignore"):
                out[known] = _distances(x[known], self.scale, self.centres, self.whitening)
        out[np.isnan(out)] = np.inf
        return out

    def shares(self, row: Floats) -> tuple[Floats, Floats]:
        """What each figure of a row (d,) adds to its squared distance (sums to d times it), and how many spreads it lies from the nearest centre."""
        offsets = row / self.scale - self.centres
        white = offsets @ self.whitening.T
        nearest = int((white**2).sum(axis=1).argmin())
        return offsets[nearest] * (white[nearest] @ self.whitening), offsets[nearest]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, nine digits."""
        return {
            "names": list(self.names), "scale": _short(self.scale), "centres": [_short(row) for row in self.centres],
            "whitening": [_short(row[: k + 1]) for k, row in enumerate(self.whitening)],  # lower triangle
            "limit": float(f"{self.limit:.9g}"), "n": self.n, "groups": self.groups,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, raw: Any, *, where: str) -> Likeness:
        """What `to_dict` gave. Raises DataError for anything else."""
        try:
            names = tuple(map(str, raw["names"]))
            d, k = len(names), len(raw["centres"])
            if not (1 <= d <= MOST_FIGURES and 1 <= k <= MOST_CENTRES and [len(row) for row in raw["whitening"]] == list(range(1, d + 1))):
                raise ValueError
            whitening = np.zeros((d, d))
            whitening[np.tril_indices(d)] = np.concatenate([np.asarray(row, dtype=np.float64) for row in raw["whitening"]])
            found = cls(
                names, np.array(raw["scale"], dtype=np.float64), np.array(raw["centres"], dtype=np.float64).reshape(k, d), whitening,
                float(raw["limit"]), int(raw["n"]), int(raw["groups"]),
            )  # fmt: skip
            right = found.scale.shape == (d,) and (found.scale > 0).all() and (np.diag(whitening) > 0).all() and found.limit > 0
            if not right or not all(np.isfinite(a).all() for a in (found.scale, found.centres, whitening, np.array(found.limit))):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise DataError("not a measure of likeness", where=where, allowed="names, scale, centres, whitening, limit, n, groups") from None
        return found

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Likeness:
        """Raises DataError."""
        try:
            return cls.from_dict(json.loads(text), where=where)
        except ValueError:
            raise DataError("not a measure of likeness", where=where, allowed="JSON") from None


def _fit(
    x: Floats, group: NDArray[np.int64], device: NDArray[np.str_], floor: Floats, copies: int
) -> tuple[Floats, Floats, Floats]:  # fmt: skip
    """Scale, centres and whitening of rows (n, d)."""
    keys, own = np.unique(device, return_inverse=True)
    several = np.array([len(np.unique(group[own == k])) for k in range(len(keys))])
    large = np.flatnonzero((np.bincount(own, minlength=len(keys)) >= CENTRE) & (several >= CENTRE_GROUPS))
    means = np.stack([x[own == k].mean(axis=0) for k in large]) if len(large) else x.mean(axis=0, keepdims=True)
    place = np.full(len(keys), -1)
    place[large] = np.arange(len(large))
    rest = x - np.where((place[own] >= 0)[:, None], means[place[own]], x.mean(axis=0))
    scale = np.sqrt(rest.var(axis=0) + floor**2)
    rest /= scale
    n, d = rest.shape
    s = rest.T @ rest / n
    mean = np.trace(s) / d
    spread = ((s - mean * np.eye(d)) ** 2).sum()
    chance = copies * (((rest**2).sum(axis=1) ** 2).sum() / n**2 - (s**2).sum() / n)  # copies of a sample are no further samples
    shrunk = float(np.clip(chance / spread, 0, 1)) if spread > 0 else 1.0
    s = (1 - shrunk) * s + (shrunk * max(mean, RIDGE) + RIDGE) * np.eye(d)
    return scale, means / scale, np.linalg.inv(np.linalg.cholesky(s))


def _distances(x: Floats, scale: Floats, centres: Floats, whitening: Floats) -> Floats:
    white, around = (x / scale) @ whitening.T, centres @ whitening.T
    return np.sqrt(np.stack([((white - one) ** 2).mean(axis=1) for one in around]).min(axis=0))


def bound(distances: Floats, group: NDArray[np.int64], level: float) -> float:
    """What `MOST_OF` the distances of the next group stay below, with probability `level`: a prediction bound on logarithms."""
    from scipy.stats import t

    of_groups = np.log([max(float(np.quantile(distances[group == k], MOST_OF)), 1e-9) for k in np.unique(group)])
    n = len(of_groups)
    return float(np.exp(of_groups.mean() + t.ppf(level, n - 1) * of_groups.std(ddof=1) * np.sqrt(1 + 1 / n)))


def _short(row: Floats) -> list[float]:
    return [float(f"{value:.9g}") for value in row]
