"""Free-response ROC of detection in scans: how many lesions are found at so many false alarms a scan.

A mark hits a lesion when it lies within the lesion's radius of its centre. Of several marks on one lesion the highest counts and the others
count for nothing; so do marks on findings that the reference leaves open (small nodules, or those that too few readers accepted).

Source:
    Setio et al., Medical Image Analysis 2017 (LUNA16): sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives a scan, and their mean;
    bootstrap over scans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core.errors import DataError
from components.core.metrics import Estimate, insufficient

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
REPLICATES = 1000
FEWEST_SCANS = 5
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Scan:
    """One scan's marks after matching.

    Args:
        hits: Score of each lesion's best mark, -inf for a lesion that no mark hits; (lesions,).
        alarms: Scores of the marks on nothing; (n,).
        best: Index of each lesion's best mark, -1 where there is none.
    """

    hits: Floats
    alarms: Floats
    best: NDArray[np.int64]


def match(
    marks_mm: ArrayLike, scores: ArrayLike, lesions_mm: ArrayLike, radii_mm: ArrayLike, open_mm: ArrayLike = (), open_radii_mm: ArrayLike = ()
) -> Scan:
    """Match the marks of one scan.

    Args:
        marks_mm: (n, 3). lesions_mm: (m, 3), with their radii. open_mm: (k, 3), findings that count neither way.
    """
    marks, lesions, ignored = (np.asarray(v, dtype=np.float64).reshape(-1, 3) for v in (marks_mm, lesions_mm, open_mm))
    s, radii, open_radii = (np.asarray(v, dtype=np.float64).reshape(-1) for v in (scores, radii_mm, open_radii_mm))
    if len(s) != len(marks) or len(radii) != len(lesions) or len(open_radii) != len(ignored):
        raise DataError("places and numbers do not fit", where="froc", got=f"{len(marks)}, {len(s)}; {len(lesions)}, {len(radii)}")
    on = _within(marks, lesions, radii)
    best = np.full(len(lesions), -1, dtype=np.int64)
    hits = np.full(len(lesions), -np.inf)
    for k in range(len(lesions)):
        if on[:, k].any():
            best[k] = int(np.argmax(np.where(on[:, k], s, -np.inf)))
            hits[k] = s[best[k]]
    free = ~on.any(axis=1) & ~_within(marks, ignored, open_radii).any(axis=1)
    return Scan(hits, s[free], best)


def _within(points: Floats, centres: Floats, radii: Floats) -> NDArray[np.bool_]:
    return np.linalg.norm(points[:, None] - centres[None], axis=2) <= radii[None]


def sensitivities(scans: Sequence[Scan], rates: Sequence[float] = RATES) -> Floats:
    """Share of lesions hit at each rate of false alarms a scan; NaN without lesions."""
    hits = np.concatenate([scan.hits for scan in scans])
    alarms = np.sort(np.concatenate([scan.alarms for scan in scans]))[::-1]
    if not len(hits):
        return np.full(len(rates), np.nan)
    out = []
    for rate in rates:
        allowed = int(np.floor(rate * len(scans) + 1e-9))
        # The lowest threshold with at most `allowed` false alarms: above the next one's score.
        limit = alarms[allowed] if allowed < len(alarms) else -np.inf
        out.append(float((hits > limit).mean()))
    return np.array(out)


def froc(scans: Sequence[Scan], rates: Sequence[float] = RATES, *, seed: int = 20161) -> dict[str, Estimate]:
    """Sensitivity at each rate (keyed by it, as text) and `mean`, each with a 95 % interval from a bootstrap over scans."""
    lesions = int(sum(len(scan.hits) for scan in scans))
    names = [*(f"{rate:g}" for rate in rates), "mean"]
    if len(scans) < FEWEST_SCANS or not lesions:
        return {name: insufficient(lesions, f"{len(scans)} scans") for name in names}
    own = sensitivities(scans, rates)
    rng = np.random.default_rng(seed)
    drawn = np.array([sensitivities([scans[k] for k in rng.integers(len(scans), size=len(scans))], rates) for _ in range(REPLICATES)])
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    values, spread = np.append(own, own.mean()), np.column_stack([drawn, drawn.mean(axis=1)])
    low, high = np.quantile(spread, [0.025, 0.975], axis=0)
    return {name: Estimate(float(v), float(a), float(b), lesions) for name, v, a, b in zip(names, values, low, high, strict=True)}
