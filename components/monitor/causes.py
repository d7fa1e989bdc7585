"""Why a device's images changed: the simulated change that explains the shifts of all figures together.

Register keeps how known changes move the figures of the model's own reference images (`components/core/acquisition_changes.py`): for each figure
a line from its value before to its value after. Applied to what a device used to show, each change at each strength predicts a pattern of
shifts; the one that leaves the least of the observed pattern is named. Figures move together, so what is left is measured in their own
correlation. A pattern that no change explains has no cause here, and is said to have none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from components.monitor import two_sample
from components.monitor.reference import Baseline
from components.monitor.sketch import BINS, MISSING

Floats = NDArray[np.float64]
STEPS = 20
BEYOND = 1.5
"""Patterns are extrapolated to this multiple of the largest simulated strength."""
TOLERANCE = 0.1
"""Standard deviations by which a real change may differ from its simulation."""
RELATIVE = 0.25
"""The same, as a share of the predicted shift: a strong change is simulated less exactly."""
TIED = 0.2
"""Share of the samples that have one and the same value, from which on they are followed apart."""
MISFIT = 6.0
"""Mean squared distance of what is seen from what a cause predicts, in what chance and simulation leave open: 1 is expected, beyond this no cause is
named. A real change is simulated within 4 on the phantoms of development; patterns that nothing makes lie at 30."""


MOST_MOVED = 0.5
"""Of the largest predicted shift: figures that move at least so far are what a cause is recognised by."""


@dataclass(frozen=True)
class Cause:
    """One explanation: `strength` as in `acquisition_changes`, `explained` at most 1 of what moved, `misfit` as in `MISFIT`; `moves`: the
    figures that it moves most, at least half as far as the one that it moves furthest."""

    name: str
    strength: float
    explained: float
    misfit: float
    moves: frozenset[str] = frozenset()


class Signatures:
    """What every known change does to the figures.

    Args:
        simulated: Columns `cause`, `strength` and the figures, as `acquisition_changes.simulated` gives them: the same samples in the same order
            for every change.
    """

    def __init__(self, simulated: Mapping[str, Sequence[Any]]) -> None:
        self.figures = tuple(name for name in simulated if name not in ("cause", "strength"))
        cause, strength = np.asarray(simulated["cause"], dtype=str), np.asarray(simulated["strength"], dtype=np.float64)
        values = np.stack([np.asarray(simulated[name], dtype=np.float64) for name in self.figures])
        before = values[:, cause == ""]
        score = special.ndtri((stats.rankdata(before, axis=1) - 0.5) / before.shape[1])
        varies = score.std(1) > 0
        score[~varies] = np.random.default_rng(0).standard_normal((int((~varies).sum()), before.shape[1]))
        self._correlation = np.corrcoef(score)
        self._atom = np.array([_atom(row) for row in before])
        self._lines: list[tuple[str, float, Floats, Floats, Floats, Floats]] = []
        for name in dict.fromkeys(cause[cause != ""].tolist()):
            for sign in (-1, 1):
                known = np.unique(strength[(cause == name) & (np.sign(strength) == sign)])
                known = known[np.argsort(np.abs(known))]
                if len(known):
                    fitted = [_moved(before, values[:, (cause == name) & (strength == s)], self._atom) for s in known]
                    self._between(name, sign, np.abs(known), fitted)

    def _between(self, name: str, sign: int, known: Floats, fitted: Sequence[tuple[Floats, Floats, Floats, Floats]]) -> None:
        """Lines at `STEPS` strengths, linear between the simulated ones and on beyond the last."""
        at = np.array([0.0, *known])
        nothing = (np.zeros_like(fitted[0][0]), np.ones_like(fitted[0][1]), np.zeros_like(fitted[0][2]), fitted[0][3])
        parts = [np.stack([nothing[k], *(f[k] for f in fitted)]) for k in range(4)]
        for s in np.linspace(0, BEYOND * at[-1], STEPS + 1)[1:]:
            k = int(np.clip(np.searchsorted(at, s), 1, len(at) - 1))
            share = (s - at[k - 1]) / (at[k] - at[k - 1])
            base, slope, leave, to = (part[k - 1] + share * (part[k] - part[k - 1]) for part in parts)
            self._lines.append((name, float(sign * s), base, slope, np.clip(leave, 0, 1), to))

    def name(self, shifts: Mapping[str, float], baseline: Baseline, n: float) -> list[Cause]:
        """Explanations of a pattern, the best first; empty when none fits it.

        Args:
            shifts: Figure -> shift, as `detect.Judged.shifts`.
            baseline: What the window was compared with.
            n: Independent events in the window.
        """
        figures = [k for k, name in enumerate(self.figures) if name in shifts and name in baseline.places.features]
        seen = np.array([shifts[self.figures[k]] for k in figures])
        whole = float(seen @ seen)
        if whole <= 0:
            return []
        known = baseline.sketch.n / baseline.sketch.per_patient
        n = 1 / (1 / max(n, 1.0) + 1 / max(known, 1.0))  # the reference is a sample, too
        near = self._correlation[np.ix_(figures, figures)]
        chance = (0.9 * near + 0.1 * np.eye(len(figures))) / n + TOLERANCE**2 * (near + np.eye(len(figures))) / 2
        patterns = self._patterns(baseline, figures)
        spread = chance + (RELATIVE * patterns)[:, None, :] ** 2 * np.eye(len(figures))
        left = seen - patterns
        distance = np.einsum("kf,kf->k", left, np.linalg.solve(spread, left[..., None])[..., 0])
        likely = -distance - np.linalg.slogdet(spread)[1]
        noise = len(figures) / n  # of what moved, this much is expected by chance and needs no explanation
        explained = 1 - np.maximum((left**2).sum(1) - noise, 0) / max(whole - noise, noise)
        best: dict[str, tuple[float, Cause]] = {}
        misfit = distance / len(figures)
        for k, (name, strength, *_) in enumerate(self._lines):
            if name not in best or likely[k] > best[name][0]:
                far = np.abs(patterns[k])
                moves = frozenset(self.figures[figures[f]] for f in np.flatnonzero(far >= max(MOST_MOVED * far.max(), 1e-9)))
                best[name] = (float(likely[k]), Cause(name, strength, float(explained[k]), float(misfit[k]), moves))
        ordered = [cause for _, cause in sorted(best.values(), key=lambda pair: -pair[0])]
        return [cause for cause in ordered if cause.misfit <= MISFIT]

    def _patterns(self, baseline: Baseline, figures: Sequence[int]) -> Floats:
        """(lines, figures): the shifts that each change at each strength would give on this device."""
        at = {name: f for f, name in enumerate(baseline.places.features)}
        out = np.zeros((len(self._lines), len(figures)))
        for column, k in enumerate(figures):
            f = at[self.figures[k]]
            counts = baseline.sketch.counts[:, f, :MISSING].sum(0).astype(np.float64)
            edges = baseline.places.edges[f]
            edges = edges[np.isfinite(edges)]
            weight = counts[1 : 2 * len(edges) : 2] + counts[0 : 2 * len(edges) : 2]  # what lies below an edge counts as being on it
            if not weight.sum():
                continue
            own = baseline.places.place(f, edges)
            before = np.bincount(own, weight, minlength=BINS)[:MISSING]
            after = [self._after(baseline, f, k, edges, own, weight, line) for line in self._lines]
            total = weight.sum()
            out[:, column] = two_sample.shift(np.tile(before / total, (len(after), 1)), np.stack(after) / total)
        return out

    def _after(
        self, baseline: Baseline, f: int, k: int, edges: Floats, own: NDArray[np.int64], weight: Floats, line: tuple[Any, ...]
    ) -> NDArray[np.float64]:
        """(PLACES,) where the device's values of one figure would lie after one change."""
        _, _, base, slope, leave, to = line
        out = np.bincount(baseline.places.place(f, base[k] + slope[k] * edges), weight, minlength=BINS).astype(np.float64)
        if len(tied := np.flatnonzero(edges == self._atom[k])):
            n = int(tied[0])
            out[int(baseline.places.place(f, base[k : k + 1] + slope[k] * edges[n])[0])] -= weight[n]
            out[own[n]] += (1 - leave[k]) * weight[n]
            out[int(baseline.places.place(f, to[k : k + 1])[0])] += leave[k] * weight[n]
        return out[:MISSING]


def _atom(values: Floats) -> float:
    """The value that many samples share, e.g. no clipped pixel at all; NaN where there is none."""
    kinds, times = np.unique(values, return_counts=True)
    return float(kinds[times.argmax()]) if times.max() >= TIED * len(values) else float("nan")


def _moved(before: Floats, after: Floats, atom: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """How a change moves each figure: (a, b) of `_line`; of samples that share the atom, how many leave it, and where to, in the mean.

    A line would move all that lie on one value together: the first few clipped pixels would be clipped pixels everywhere.
    """
    leave, to = np.zeros(len(before)), atom.copy()
    for f in np.flatnonzero(np.isfinite(atom)):
        tied = before[f] == atom[f]
        gone = tied & (after[f] != atom[f])
        leave[f] = gone.sum() / tied.sum()
        to[f] = after[f][gone].mean() if gone.any() else atom[f]
    return (*_line(before, after), leave, to)


def _line(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """Least squares of after = a + b before, of each row; b is 1 where nothing varies."""
    x, y = before - before.mean(1, keepdims=True), after - after.mean(1, keepdims=True)
    square = (x**2).sum(1)
    b = np.divide((x * y).sum(1), square, out=np.ones(len(x)), where=square > 1e-12)
    return after.mean(1) - b * before.mean(1), b
