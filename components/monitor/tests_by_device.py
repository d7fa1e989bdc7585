"""Has a device's data changed? Two-sample tests that stay quiet when nothing happened.

Feature-by-feature thresholds raise an alarm in most windows of a busy site (30 features and 8 devices at p < .05: 12 a window), and samples
of one patient are not independent. So: Kolmogorov-Smirnov, with p from permuting whole patients; a correction over features and devices; a
smallest effect that matters; and a smallest n, below which the answer is "too few to judge" and never "no drift".
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import pandas as pd

LEVEL = 0.05
"""Probability that one window raises a drift alarm on any device that did not change, whatever the others did."""
MIN_EFFECT = 0.1
"""Smallest KS distance that is reported, in [0, 1]: about a shift by a quarter of a standard deviation."""
MIN_GROUPS = 5
"""Fewer patients say nothing about new patients, however many samples they bring."""
RESAMPLES = 999
MAX_SAMPLES = 4000
CHUNK = 1_000_000


@dataclass(frozen=True)
class Change:
    """One feature of one device against its reference.

    Args:
        n_reference, n: Samples compared.
        ks: Largest distance of the two distribution functions, in [0, 1].
        p: Probability of such a distance if nothing changed.
        shift: Difference of the medians in robust standard deviations of the reference; None where the reference does not vary.
        median_reference, median: In the feature's unit.
        adjusted: `p` after the correction over features and devices.
        alarm: `adjusted` at most `LEVEL` and `ks` at least `MIN_EFFECT`.
    """

    n_reference: int
    n: int
    ks: float
    p: float
    shift: float | None
    median_reference: float
    median: float
    adjusted: float = 1.0
    alarm: bool = False


@dataclass
class Finding:
    """One device. `changes` is empty when it was not judged; `verdict` is what a reader is told."""

    key: str
    status: str
    compared_with: str
    n: int
    groups: int
    n_reference: int
    verdict: str
    changes: dict[str, Change] = field(default_factory=dict)

    @property
    def judged(self) -> bool:
        return bool(self.changes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def ks_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Largest distance between the two empirical distribution functions, in [0, 1]."""
    x, y = np.sort(np.asarray(a, dtype=float)), np.sort(np.asarray(b, dtype=float))
    both = np.concatenate([x, y])
    return float(np.abs(np.searchsorted(x, both, side="right") / len(x) - np.searchsorted(y, both, side="right") / len(y)).max())


def ks_p(
    a: ArrayLike,
    b: ArrayLike,
    groups_a: Sequence[Any] | None = None,
    groups_b: Sequence[Any] | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """P of the KS distance if both come from the same source.

    Without repeated groups: the exact or asymptotic distribution. With them: whole groups change sides at random, which keeps what the samples
    of one patient share. A patient on both sides counts as two, so a window that repeats reference patients is judged too mildly, never too
    harshly.

    Args:
        a, b: (n,), (m,) finite values.
        groups_a, groups_b: Group of each value; None when every value stands for itself.
        resamples: Permutations; the smallest p is 1 / (resamples + 1).
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    ga, gb = _codes(groups_a, len(x)), _codes(groups_b, len(y))
    if len(np.unique(ga)) == len(x) and len(np.unique(gb)) == len(y):
        from scipy.stats import ks_2samp

        return float(np.asarray(ks_2samp(x, y, method="auto"))[1])
    x, ga = _at_most(x, ga)
    y, gb = _at_most(y, gb)
    gb = gb + int(ga.max()) + 1
    values, group = np.concatenate([x, y]), np.concatenate([ga, gb])
    _, group = np.unique(group, return_inverse=True)
    order = np.argsort(values, kind="stable")
    values, group = values[order], group[order]
    last = np.append(values[1:] != values[:-1], True)  # ties step together
    n_groups, n_b = int(group.max()) + 1, len(np.unique(gb))
    own = ks_distance(x, y) - 1e-12
    rng = np.random.default_rng(seed)
    rank = np.arange(1, len(values) + 1)
    beyond = 0
    for start in range(0, resamples, step := max(1, CHUNK // len(values))):
        size = min(step, resamples - start)
        sides = np.argsort(rng.random((size, n_groups)), axis=1) < n_b  # each row sends n_b groups to side b
        counts = np.cumsum(sides[:, group], axis=1, dtype=np.int32)
        in_b = np.maximum(counts[:, -1:], 1)
        in_a = np.maximum(len(values) - counts[:, -1:], 1)
        distance = np.abs(counts / in_b - (rank - counts) / in_a)[:, last].max(axis=1)
        beyond += int((distance >= own).sum())
    return (beyond + 1) / (resamples + 1)


def benjamini_hochberg(p: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values, in the order given: reject where at most the wanted false-discovery rate.

    Source:
        Benjamini & Hochberg, J. R. Stat. Soc. B 1995.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)[::-1]
    scaled = values[order] * len(values) / np.arange(len(values), 0, -1)
    out = np.empty_like(values)
    out[order] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return out


def holm(p: ArrayLike) -> NDArray[np.float64]:
    """Adjusted p-values, in the order given: reject where at most the wanted probability of any false rejection.

    Source:
        Holm, Scand. J. Stat. 1979.
    """
    values = np.asarray(p, dtype=float)
    order = np.argsort(values)
    out = np.empty_like(values)
    out[order] = np.minimum(np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1)), 1.0)
    return out


def by_device(reference: pd.DataFrame, current: pd.DataFrame, features: Sequence[str], *, min_n: int) -> dict[str, Finding]:
    """Judge every device of reference and window.

    A device of the reference is compared with its own past. An unseen one is compared with the pooled reference, which says how it differs
    from what the model knows. Unseen devices are corrected for apart: they are expected to differ, and must not cost the known ones power.

    Args:
        reference, current: Columns `device_key`, `group`, and `features`; missing values allowed.
        min_n: Samples needed on both sides.

    Returns:
        device_key -> finding: unseen devices first, then known, then silent ones.
    """
    known = sorted(set(reference["device_key"]))
    seen = sorted(set(current["device_key"]))
    findings: dict[str, Finding] = {}
    members = {key: rows for key, rows in current.groupby("device_key")}
    past = {key: rows for key, rows in reference.groupby("device_key")}
    tests = max(1, len(features) * len(seen))
    resamples = max(RESAMPLES, ceil(tests / LEVEL))  # so that one changed feature alone can still pass the correction
    for key in [*(k for k in seen if k not in past), *(k for k in seen if k in past)]:
        status = "known" if key in past else "unseen"
        before, now = past.get(key, reference), members[key]
        finding = Finding(
            key, status, "its own reference" if status == "known" else "the pooled reference", len(now), now["group"].nunique(), len(before), ""
        )
        findings[key] = finding
        finding.verdict = _too_few(before, now, min_n)
        if finding.verdict:
            continue
        for name in features:
            a, b = before[before[name].notna()], now[now[name].notna()]
            if not _too_few(a, b, min_n):
                finding.changes[name] = _change(a, b, name, resamples=resamples, seed=_seed(key, name))
    for status in ("known", "unseen"):
        _correct([f for f in findings.values() if f.status == status])
    for finding in findings.values():
        if finding.judged:
            finding.verdict = "drift" if any(c.alarm for c in finding.changes.values()) else f"no drift found (n={finding.n})"
        elif not finding.verdict:
            finding.verdict = f"too few to judge (n={finding.n})"
    for key in known:
        if key not in members:
            findings[key] = Finding(key, "silent", "its own reference", 0, 0, len(past[key]), "silent")
    return findings


def _too_few(before: pd.DataFrame, now: pd.DataFrame, min_n: int) -> str:
    """Why a comparison says nothing, or ""."""
    if len(now) < min_n:
        return f"too few to judge (n={len(now)})"
    if len(before) < min_n:
        return f"too few to judge (reference n={len(before)})"
    for rows, side in ((now, ""), (before, "reference ")):
        if (groups := rows["group"].nunique()) < MIN_GROUPS:
            return f"too few to judge ({side}n={len(rows)} from {groups} patient{'s' if groups > 1 else ''})"
    return ""


def _change(before: pd.DataFrame, now: pd.DataFrame, name: str, *, resamples: int, seed: int) -> Change:
    a, b = before[name].to_numpy(dtype=float), now[name].to_numpy(dtype=float)
    low, middle, high = np.quantile(a, [0.25, 0.5, 0.75])
    spread = (high - low) / 1.349  # quartiles to standard deviation, for a normal distribution
    median = float(np.median(b))
    return Change(
        n_reference=len(a),
        n=len(b),
        ks=ks_distance(a, b),
        p=ks_p(a, b, before["group"].tolist(), now["group"].tolist(), resamples=resamples, seed=seed),
        shift=float((median - middle) / spread) if spread > 0 else None,
        median_reference=float(middle),
        median=median,
    )


def _correct(findings: list[Finding]) -> None:
    """Features within a device by Benjamini-Hochberg; the devices, each by its Simes p, by Holm. A feature needs both.

    Correcting all together would let one drifted device, with its many discoveries, lend its level to unchanged ones.
    """
    judged = [f for f in findings if f.judged]
    within = [dict(zip(f.changes, benjamini_hochberg([c.p for c in f.changes.values()]), strict=True)) for f in judged]
    between = holm([min(adjusted.values()) for adjusted in within])  # Simes' p is the smallest adjusted one
    for finding, adjusted, device_p in zip(judged, within, between, strict=True):
        for name, change in finding.changes.items():
            q = float(max(adjusted[name], device_p))
            finding.changes[name] = replace(change, adjusted=q, alarm=q <= LEVEL and change.ks >= MIN_EFFECT)


def _codes(groups: Sequence[Any] | None, n: int) -> NDArray[np.int64]:
    if groups is None:
        return np.arange(n)
    return np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)[1]


def _at_most(values: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Whole groups until `MAX_SAMPLES` values are reached: a permutation of more costs time and adds nothing."""
    if len(values) <= MAX_SAMPLES:
        return values, groups
    order = np.argsort(np.random.default_rng(0).random(int(groups.max()) + 1)[groups], kind="stable")
    cut = groups[order[MAX_SAMPLES]]
    keep = order[:MAX_SAMPLES]
    keep = keep[groups[keep] != cut] if len(np.unique(groups[keep])) > 1 else keep
    return values[keep], groups[keep]


def _seed(*parts: str) -> int:
    return int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:8], "big")
