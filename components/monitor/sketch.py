"""What a device's window looked like, in counts: a month is the sum of its days, never a second look at the events.

Every feature of a device is counted in places that the device's own reference fixes: its quantiles (`EDGES` of them), each a place of its own,
and the gaps between them. Rank tests need nothing else, ties are exact, and two sketches merge by addition. Numbers that many events of one
patient share are no news: how unevenly patients contribute is kept in a tug-of-war sketch.

Source:
    Alon, Matias & Szegedy, J. Comput. Syst. Sci. 1999 (second moment of frequencies); Charikar, Chen & Farach-Colton, ICALP 2002 (one sign
    and one counter for each event).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.errors import DataError

EDGES = 64
PLACES = 2 * EDGES + 1
MISSING = PLACES
BINS = PLACES + 1
NEW = 2 * EDGES  # a category that the reference does not have stands behind all others
TUGS = 1024
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Places:
    """Where the values of one device's features are counted; fixed by its reference.

    Args:
        features: Names, in order.
        edges: (features, EDGES) float64, ascending; what is not needed is +inf. Numbers only.
        categories: Feature name -> its values in the reference, most frequent first, for features that are names; fewer than EDGES.
    """

    features: tuple[str, ...]
    edges: NDArray[np.float64]
    categories: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, columns: Mapping[str, Any], like: Places | None = None) -> Places:
        """Places from a reference: name -> (n,) numbers (NaN where missing), or texts (None where missing).

        Args:
            like: Of all devices: a name that another device has is known by its name here, too, behind this device's own.
        """
        names = tuple(columns)
        edges = np.full((len(names), EDGES), np.inf)
        categories: dict[str, tuple[str, ...]] = {}
        for f, name in enumerate(names):
            values = np.asarray(columns[name])
            if values.dtype.kind not in "biuf":
                present = [v for v in _texts(values) if v is not None]
                kinds, times = np.unique(np.asarray(present, dtype=str), return_counts=True)
                own = kinds[np.argsort(-times, kind="stable")].tolist()
                others = like.categories.get(name, ()) if like else ()
                categories[name] = tuple(dict.fromkeys((*own, *others)))[: EDGES - 1]
                continue
            finite = np.sort(values[np.isfinite(values)].astype(np.float64))
            if not len(finite):
                continue
            different = np.unique(finite)
            if len(different) > EDGES:
                different = np.unique(np.quantile(finite, (np.arange(EDGES) + 0.5) / EDGES, method="inverted_cdf"))
            edges[f, : len(different)] = different
        return cls(names, edges, categories)

    def place(self, feature: int, values: ArrayLike) -> NDArray[np.int64]:
        """(n,) places of one feature's values, in [0, BINS)."""
        name = self.features[feature]
        if name in self.categories:
            known = {value: 2 * n + 1 for n, value in enumerate(self.categories[name])}
            return np.array([MISSING if v is None else known.get(v, NEW) for v in _texts(values)], dtype=np.int64)
        x = np.asarray(values, dtype=np.float64)
        edges = self.edges[feature]
        low = np.searchsorted(edges, x)
        out = 2 * low + (edges[np.minimum(low, EDGES - 1)] == x)
        out[~np.isfinite(x)] = MISSING  # an infinite measurement is a failed one
        return out


@dataclass
class Sketch:
    """Events of one device in one window.

    Args:
        counts: (strata, features, BINS): how many events lie in each place; the last place counts missing values.
        tugs: (TUGS,) signed sums over patients.
        ends: (features, 2) smallest and largest value of numbers, (inf, -inf) where nothing was counted and for names; NaN where a part was counted
            before they were kept. A place beyond the reference only says that a value is beyond: these say how far.
    """

    counts: Counts
    tugs: Counts
    ends: NDArray[np.float64]

    @classmethod
    def empty(cls, strata: int, features: int) -> Sketch:
        return cls(np.zeros((strata, features, BINS), np.int64), np.zeros(TUGS, np.int64), no_ends(features))

    def add(self, places: Places, columns: Mapping[str, Any], groups: NDArray[np.uint64], strata: NDArray[np.int64] | None = None) -> None:
        """Count n events.

        Args:
            columns: Feature name -> (n,) values; a feature that is absent counts as missing.
            groups: (n,) hashes of patients, see `hashes`.
            strata: (n,) in [0, strata); None where there is one.
        """
        n = len(groups)
        base = np.zeros(n, np.int64) if strata is None else np.asarray(strata, np.int64) * BINS
        size = len(self.counts) * BINS
        for f, name in enumerate(places.features):
            place = places.place(f, columns[name]) if name in columns else np.full(n, MISSING, np.int64)
            if len(place) != n:
                raise DataError("columns of different lengths", where=f"window: {name}", got=len(place), allowed=n)
            self.counts[:, f] += np.bincount(base + place, minlength=size).reshape(len(self.counts), BINS)
            if name in columns and name not in places.categories:
                values = np.asarray(columns[name], dtype=np.float64)
                if len(finite := values[np.isfinite(values)]):
                    self._widen(f, finite.min(), finite.max())
        sign = 1 - 2 * ((groups >> np.uint64(32)) & np.uint64(1)).astype(np.int64)
        self.tugs += np.bincount((groups % np.uint64(TUGS)).astype(np.int64), weights=sign, minlength=TUGS).astype(np.int64)

    def merge(self, other: Sketch) -> None:
        """Add what `other` counted; both must stand on the same places."""
        if self.counts.shape != other.counts.shape:
            raise DataError("sketches of different features", where="window", got=list(other.counts.shape), allowed=list(self.counts.shape))
        self.counts += other.counts
        self.tugs += other.tugs
        for f, (low, high) in enumerate(other.ends):
            self._widen(f, low, high)

    def _widen(self, feature: int, low: float, high: float) -> None:
        """NaN stays: what is not known of a part is not known of the whole."""
        self.ends[feature] = np.minimum(self.ends[feature, 0], low), np.maximum(self.ends[feature, 1], high)

    @property
    def n(self) -> int:
        return int(self.counts[:, 0].sum()) if self.counts.shape[1] else 0

    @property
    def per_patient(self) -> float:
        """Events of the patient that an event belongs to, in the mean over events (sum of squares over n), from the sketch: at least 1.

        Its relative error is about 1 / 23. Many events of one patient count little: n / per_patient is the effective number of patients.
        """
        return max(1.0, float((self.tugs.astype(np.float64) ** 2).sum()) / max(1, self.n))


def no_ends(features: int) -> NDArray[np.float64]:
    """`Sketch.ends` of nothing."""
    return np.tile(np.array([np.inf, -np.inf]), (features, 1))


def hashes(groups: Sequence[Any]) -> NDArray[np.uint64]:
    """(n,) 64-bit hashes of patients' pseudonyms: the same for the same one, in any process."""
    import pandas as pd

    return pd.util.hash_array(np.asarray([str(g) for g in groups], dtype=object), categorize=True)


def _texts(values: ArrayLike) -> list[str | None]:
    import pandas as pd

    column = np.asarray(values, dtype=object)
    return [None if gone else str(value) for value, gone in zip(column.tolist(), pd.isna(column).tolist(), strict=True)]
