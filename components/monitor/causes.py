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
MISFIT = 6.0
"""Mean squared distance of what is seen from what a cause predicts, in what chance and simulation leave open: 1 is expected, beyond this no cause is
named. A real change is simulated within 4 on the phantoms of development; patterns that nothing makes lie at 30."""


@dataclass(frozen=True)
class Cause:
    """One explanation: `strength` as in `acquisition_changes`, `explained` at most 1 of what moved, `misfit` as in `MISFIT`."""

    name: str
    strength: float
    explained: float
    misfit: float


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
        self._lines: list[tuple[str, float, Floats, Floats]] = []
        for name in dict.fromkeys(cause[cause != ""].tolist()):
            for sign in (-1, 1):
                known = np.unique(strength[(cause == name) & (np.sign(strength) == sign)])
                known = known[np.argsort(np.abs(known))]
                if len(known):
                    fitted = [_line(before, values[:, (cause == name) & (strength == s)]) for s in known]
                    self._between(name, sign, np.abs(known), fitted)

    def _between(self, name: str, sign: int, known: Floats, fitted: Sequence[tuple[Floats, Floats]]) -> None:
        """Lines at `STEPS` strengths, linear between the simulated ones and on beyond the last."""
        at = np.array([0.0, *known])
        base = np.stack([np.zeros_like(fitted[0][0]), *(f[0] for f in fitted)])
        slope = np.stack([np.ones_like(fitted[0][1]), *(f[1] for f in fitted)])
        for s in np.linspace(0, BEYOND * at[-1], STEPS + 1)[1:]:
            k = int(np.clip(np.searchsorted(at, s), 1, len(at) - 1))
            share = (s - at[k - 1]) / (at[k] - at[k - 1])
            self._lines.append((name, float(sign * s), *(part[k - 1] + share * (part[k] - part[k - 1]) for part in (base, slope))))

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
        near = self._correlation[np.ix_(figures, figures)]
        chance = (0.9 * near + 0.1 * np.eye(len(figures))) / max(n, 1.0) + TOLERANCE**2 * (near + np.eye(len(figures))) / 2
        patterns = self._patterns(baseline, figures)
        spread = chance + (RELATIVE * patterns)[:, None, :] ** 2 * np.eye(len(figures))
        left = seen - patterns
        distance = np.einsum("kf,kf->k", left, np.linalg.solve(spread, left[..., None])[..., 0])
        likely = -distance - np.linalg.slogdet(spread)[1]
        noise = len(figures) / max(n, 1.0)  # of what moved, this much is expected by chance and needs no explanation
        explained = 1 - np.maximum((left**2).sum(1) - noise, 0) / max(whole - noise, noise)
        best: dict[str, tuple[float, Cause]] = {}
        misfit = distance / len(figures)
        for k, (name, strength, _, _) in enumerate(self._lines):
            if name not in best or likely[k] > best[name][0]:
                best[name] = (float(likely[k]), Cause(name, strength, float(explained[k]), float(misfit[k])))
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
            before = np.bincount(baseline.places.place(f, edges), weight, minlength=BINS)[:MISSING]
            after = [np.bincount(baseline.places.place(f, a[k] + b[k] * edges), weight, minlength=BINS)[:MISSING] for _, _, a, b in self._lines]
            total = weight.sum()
            out[:, column] = two_sample.shift(np.tile(before / total, (len(after), 1)), np.stack(after) / total)
        return out


def _line(before: Floats, after: Floats) -> tuple[Floats, Floats]:
    """Least squares of after = a + b before, of each row; b is 1 where nothing varies."""
    x, y = before - before.mean(1, keepdims=True), after - after.mean(1, keepdims=True)
    square = (x**2).sum(1)
    b = np.divide((x * y).sum(1), square, out=np.ones(len(x)), where=square > 1e-12)
    return after.mean(1) - b * before.mean(1), b
