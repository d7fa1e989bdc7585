"""How sure an answer is, said in three ways that a reader can check.

    entropy     of the calibrated probabilities, 0 (sure) to 1 (no idea), over the number of classes
    coverage    0.9, or None where there is no set
    set         the classes that cannot be excluded: with probability 0.9 for each class, the true one is in it (class-conditional conformal)
    observed    what was counted near this probability, None where there was too little:
                  from, to   probabilities of the positive class that were counted, both included: whole percents, so that a reader can count again
                  n, k       samples there, and how many of them were positive
                  groups, grouping   of how many patients (subjects, lesions) they are
                  share, low, high   k / n, and its exact 95 % interval (`components/core/exact.py`) with `groups` as the number of samples
                  of         "test", or "validation and test" where there are too few test samples
    low, high   `observed`'s interval once more, where this probability lies in it; else None: an interval that excludes the figure beside it is
                no interval of that figure. Then `observed.share` is what to go by.

All from the package's reference, by preference of test samples, which neither training nor calibration saw. What the reference cannot support is
None.

Source:
    Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005 (label-conditional conformal predictors); Clopper and Pearson 1934.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import exact, wording
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

COVERAGE = 0.9
LEAST = 20
"""Samples of a class, or near a probability, below which nothing is said of it."""
ENOUGH = 40
"""Samples near a probability that are counted, more where more lie `NEAR`."""
NEAR, WIDEST = 0.03, 0.25
"""Distance within which all samples are counted, and beyond which none is. Near 0 and 1 the former shrinks to a quarter of what is left, at least
`FINEST`: 0.2 % and 3 % are not alike."""
FINEST = 0.005
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Counted:
    """Samples in the order of the probability of the positive class, to count among.

    Args:
        p: (n,) ascending.
        positive: (n,) whether the sample was.
        group: (n,) whose it is, as a number.
        of: "test" or "validation and test".
        grouping: What a group is called.
    """

    p: Floats
    positive: NDArray[np.bool_]
    group: NDArray[np.int64]
    of: str
    grouping: str
    _known: dict[tuple[float, float], dict[str, Any] | None] = field(default_factory=dict, repr=False, compare=False)

    def near(self, p: float) -> dict[str, Any] | None:
        """`observed` of the module; None for fewer than `LEAST` samples."""
        close = max(FINEST, min(NEAR, 0.25 * min(p, 1 - p)))
        first, last = np.searchsorted(self.p, [p - close, p + close], side="left")
        if last - first < ENOUGH:
            first, last = self._nearest(p)
        if first == last:
            return None
        low, high = wording.outwards(min(float(self.p[first]), p), max(float(self.p[last - 1]), p))
        if (low, high) not in self._known:  # a recording asks the same thing a hundred times
            self._known[low, high] = self._count(low, high)
        known = self._known[low, high]
        return None if known is None else dict(known)

    def _count(self, low: float, high: float) -> dict[str, Any] | None:
        first, last = int(np.searchsorted(self.p, low, side="left")), int(np.searchsorted(self.p, high, side="right"))
        n, k = last - first, int(self.positive[first:last].sum())
        if n < LEAST:
            return None
        groups = len(np.unique(self.group[first:last]))
        ends = exact.interval(k, n, groups)
        return {
            "from": low, "to": high, "n": n, "k": k, "groups": groups, "grouping": self.grouping, "share": round(k / n, 4),
            "low": round(ends[0], 4), "high": round(ends[1], 4), "of": self.of,
        }  # fmt: skip

    def _nearest(self, p: float) -> tuple[int, int]:
        """The `ENOUGH` nearest within `WIDEST`, as a range: nothing lies between them that is not one of them."""
        first, here, last = (int(v) for v in np.searchsorted(self.p, [p - WIDEST, p, p + WIDEST], side="left"))
        first, last = max(first, here - ENOUGH), min(last, here + ENOUGH)
        while last - first > ENOUGH:
            if p - self.p[first] > self.p[last - 1] - p:
                first += 1
            else:
                last -= 1
        return first, last


@dataclass(frozen=True)
class Uncertainty:
    """What the reference says.

    Args:
        classes: Names.
        least: (K,) lowest probability with which a class is still in the set; None: no sets.
        counted: What to count among; None: nothing was, or no class is the positive one.
        positive: Indices of the classes whose sum `counted` is about.
    """

    classes: tuple[str, ...]
    least: Floats | None
    counted: Counted | None
    positive: tuple[int, ...]

    @classmethod
    def learn(cls, spec: DiseaseSpec, reference: pd.DataFrame) -> Uncertainty:
        """From `reference.parquet`: `label`, `split`, `group_id` and `score_<class>`, which are probabilities."""
        names = spec.target.classes
        nothing = cls(names, None, None, spec.positive_indices)
        columns = [f"score_{name}" for name in names]
        if spec.target.kind == "multilabel" or "label" not in reference or not set(columns) <= set(reference.columns):
            return nothing
        rows = reference[reference["label"].notna() & reference[columns].notna().all(axis=1)]
        tested = rows[rows["split"] == "test"] if "split" in rows else rows
        counts = tested["label"].astype(int).value_counts()
        of = "validation and test"
        if all(counts.get(k, 0) >= LEAST for k in range(len(names))):
            rows, of = tested, "test"
        if not len(rows):
            return nothing
        y, p = rows["label"].to_numpy(np.int64), rows[columns].to_numpy(np.float64)
        counts = np.bincount(y, minlength=len(names))
        least = _least(y, p) if counts.min() >= LEAST else None
        counted = None
        if spec.positive_indices:
            exact.interval(1, 2)  # imports what the first answer would wait for
            share = np.clip(p[:, list(spec.positive_indices)].sum(1), 0, 1)
            order = np.argsort(share, kind="stable")
            _, group = np.unique(rows["group_id"].astype(str).to_numpy(), return_inverse=True)
            grouping = "sample" if spec.split.grouping == "none" else spec.split.grouping
            counted = Counted(share[order], np.isin(y, spec.positive_indices)[order], group[order].astype(np.int64), of, grouping)
        return cls(names, least, counted, spec.positive_indices)

    def describe(self, p: Floats) -> list[dict[str, Any]]:
        """(n, K) probabilities -> one dict a sample, see the module."""
        logs = np.log(np.clip(p, 1e-300, 1))
        rows = p.sum(1, keepdims=True)
        entropy = -(p * logs).sum(1) / np.log(max(2, p.shape[1])) if np.abs(rows - 1).max(initial=0) < 1e-6 else _binary_entropy(p)
        out: list[dict[str, Any]] = [{"entropy": round(float(np.clip(e, 0, 1)), 4)} for e in entropy]
        for n, one in enumerate(out):
            one["coverage"] = COVERAGE if self.least is not None else None
            one["set"] = (
                [c for c, value, least in zip(self.classes, p[n], self.least, strict=True) if value >= least] if self.least is not None else None
            )
            share = float(np.clip(p[n, list(self.positive)].sum(), 0, 1))
            found = self.counted.near(share) if self.counted is not None else None
            one["observed"] = found
            beside = found is not None and found["low"] <= share <= found["high"]
            one["low"], one["high"] = (found["low"], found["high"]) if found is not None and beside else (None, None)
        return out


def _least(y: NDArray[np.int64], p: Floats) -> Floats:
    """Of each class, the probability that a share `COVERAGE` of its samples reach, counted so that it holds for the next one."""
    out = np.zeros(p.shape[1])
    for k in range(p.shape[1]):
        own = np.sort(p[y == k, k])
        below = int(np.floor((len(own) + 1) * (1 - COVERAGE)))
        out[k] = own[below - 1] if below >= 1 else 0.0
    return out


def _binary_entropy(p: Floats) -> Floats:
    """Mean over the labels of several yes-or-no questions."""
    q = np.clip(p, 1e-12, 1 - 1e-12)
    return (-(q * np.log2(q) + (1 - q) * np.log2(1 - q))).mean(1)
