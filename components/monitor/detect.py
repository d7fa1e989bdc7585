"""Has a device changed? From sketches of windows to alarms that an operator can trust.

Each window gives every feature of a device a p. An alarm needs two of three windows: the second smallest p of the last three is judged, as what
it is if nothing changed, under false-discovery control over the features of a device and over devices, and the change must be large enough to
matter. A single window may at most ask to be watched. Windows too small to judge say so; they neither raise an alarm nor end one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.core import embedding
from components.core.acquisition import PARAMETERS
from components.core.errors import DataError
from components.core.pseudonym import UNKNOWN_DEVICE
from components.monitor import case_mix, two_sample
from components.monitor.reference import MIN_REFERENCE, POOLED, Baseline, Reference
from components.monitor.sketch import BINS, MISSING, NEW, Sketch

FALSE_ALARMS = 0.0025
"""Probability that an unchanged device raises an alarm in one window; what is measured stands in docs/drift.md."""
MOST = 0.05
"""Largest false-discovery rate over the devices of one window, however many they are."""
WATCH = 0.05
MIN_SHIFT, MIN_SCALE, MIN_DISTANCE, MIN_SHARE = 0.15, 0.2, 0.1, 0.05
"""Smallest change that matters: of a mean (standard deviations), of the spread (share), of a distribution (KS), of a proportion."""
FAR = 0.5
"""Shift in standard deviations from which on it is told before the spread."""
MIN_MIX = 0.1
"""Smallest change of a stratum's share that is told."""
MIN_N, MIN_PATIENTS = 25, 5
VALUES = 12
"""Numbers with at most so many values in the reference are told by value."""
WINDOWS = 3
Aspect = Literal["location", "any", "scale", "missing", "category"]
LEAST = {"location": MIN_SHIFT, "scale": MIN_SCALE, "any": MIN_DISTANCE, "missing": MIN_SHARE, "category": MIN_SHARE}
Past = dict[str, tuple[float, float]]
"""What is remembered of a window: `Change.name` -> p, effect."""
NOT_TOLD = "nobody told which devices these are, and the reference has no such answers"
UNHEARD = "a value that the reference does not have"
KINDS: tuple[Aspect, ...] = ("location", "any", "scale")


@dataclass(frozen=True)
class Moved:
    """Values from `low` to `high` (one value where they are equal, infinite beyond the reference), and the share of values there, in [0, 1]."""

    low: float
    high: float
    before: float
    after: float


@dataclass(frozen=True)
class Change:
    """One aspect of one feature of one device in one window.

    Args:
        aspect: What changed: the middle, the spread, the distribution as a whole, the share of missing values, the share of a category.
        p: Of this window.
        lasting: Of the last three windows; 1 before there are two.
        adjusted: `lasting` after false-discovery control over features and devices.
        effect: In standard deviations (location), share (scale, missing, category) or KS distance (any); signed where it has a direction.
        before, after: Median of reference and window, or the shares. A median beyond all that the reference holds is the end of the reference, or
            the window's own value where it has one only.
        middle: Of numbers: between which values the window's median lies, infinite where it is beyond.
        ends: Of numbers: the window's smallest and largest value, where they are known.
        moved: Of numbers with a few values in the reference: where the values lie, before and now.
        value: The category, where the aspect is one.
        shared: How much of the comparison's variance comes from the reference, which all windows share.
    """

    feature: str
    aspect: Aspect
    p: float
    effect: float
    before: float | None
    after: float | None
    value: str | None = None
    shared: float = 0.0
    lasting: float = 1.0
    adjusted: float = 1.0
    middle: tuple[float, float] | None = None
    ends: tuple[float, float] | None = None
    moved: tuple[Moved, ...] = ()

    @property
    def name(self) -> str:
        """What has to come back in another window. Not the aspect: a changed mean may show as a change of the spread in the next window."""
        return f"{self.feature} missing" if self.aspect == "missing" else self.feature

    @property
    def matters(self) -> bool:
        return abs(self.effect) >= LEAST[self.aspect]

    @property
    def kind(self) -> str:
        """Of the alarm that it raises."""
        if self.feature.startswith("header_"):
            return "header"
        return "abstention" if self.feature == "abstained" else "drift"


@dataclass(frozen=True)
class Mixed:
    """One stratum of the case mix: its share of the device's reference and of the window, in [0, 1]."""

    stratum: str
    before: float
    after: float


@dataclass
class Judged:
    """One device in one window.

    Args:
        status: `known`, `unseen` (no event of it in the reference), `unknown` (events of which nobody told the device: neither of the two, whatever
            the reference has) or `silent` (expected, but no event).
        n, patients: Events, and the effective number of patients behind them.
        against: `own` reference, or `pooled`.
        reason: Why it was not judged, or "".
        watch: Differences of this window alone, the strongest first.
        alarm: Changes that persist, the strongest first; p and effect are those of this window.
        shifts: Feature -> shift of its middle in standard deviations, of every number, whether it matters or not.
        compared: Every comparison, with its adjusted p.
        mix: How the case mix changed, the largest change first; empty where it did not, or where it is not known.
        left_out: Share of the events whose patients are unlike all of the device's reference; they were not compared.
        unjudged: Which features of which events could not be compared though all others were, and why; or "".
    """

    status: Literal["known", "unseen", "unknown", "silent"]
    n: int
    patients: float
    against: str
    reason: str = ""
    watch: list[Change] = field(default_factory=list)
    alarm: list[Change] = field(default_factory=list)
    shifts: dict[str, float] = field(default_factory=dict)
    compared: list[Change] = field(default_factory=list)
    mix: list[Mixed] = field(default_factory=list)
    left_out: float = 0.0
    unjudged: str = ""

    @property
    def verdict(self) -> str:
        """`cannot judge`, `drift`, `watch` (a first sign) or `no drift found`; the last one never where a part was not judged."""
        if self.reason:
            return "cannot judge"
        return "drift" if self.alarm else "watch" if self.watch else "cannot judge" if self.unjudged else "no drift found"

    @property
    def why(self) -> str:
        """Why it, or a part of it, was not judged, or ""."""
        return self.reason or self.unjudged


class Detector:
    """Judges the windows of one model in the order of time. Its memory is `history`, which can be stored between runs.

    Args:
        reference: Of the model.
        history: Device -> its last judged windows, the latest last; at most WINDOWS - 1 are kept. Plain data.
    """

    def __init__(self, reference: Reference, history: Mapping[str, Sequence[Mapping[str, Sequence[float]]]] | None = None) -> None:
        self.reference = reference
        self.history: dict[str, list[Past]] = {
            key: [{name: (float(p), float(effect)) for name, (p, effect) in window.items()} for window in past]
            for key, past in (history or {}).items()
        }

    def sketch(self, device: str) -> Sketch:
        """An empty sketch for a window of this device."""
        return Sketch.empty(len(self.reference.strata), len(self.reference.features))

    def judge(self, window: Mapping[str, Sketch]) -> dict[str, Judged]:
        """Judge one window of all devices, and remember it.

        Args:
            window: Device -> its events, counted on `reference.baseline(device)`'s places. A device without events may be absent.

        Returns:
            Every device of the window and of the reference.
        """
        return self._judged(window, once=False)

    def look(self, window: Mapping[str, Sketch]) -> dict[str, Judged]:
        """One look at everything, without a memory: what `judge` finds at the same level, but a change needs to be seen once only."""
        return self._judged(window, once=True)

    def _judged(self, window: Mapping[str, Sketch], *, once: bool) -> dict[str, Judged]:
        shape = (len(self.reference.strata), len(self.reference.features), BINS)
        out: dict[str, Judged] = {}
        found: dict[str, list[Change]] = {}
        for device in sorted({*window, *self.reference.shares}):
            sketch = window.get(device)
            if sketch is not None and sketch.counts.shape != shape:
                raise DataError("a window of another reference", where="window", got=list(sketch.counts.shape), allowed=list(shape))
            baseline, against = self.reference.baseline(device)
            expected = device in self.reference.shares
            status = "unknown" if device == UNKNOWN_DEVICE else "known" if expected else "unseen"
            n = sketch.n if sketch else 0
            patients = n / sketch.per_patient if sketch and n else 0.0
            judged = Judged("silent" if not n and expected else status, n, round(patients, 1), against)
            out[device] = judged
            if not n or sketch is None:
                judged.reason = "no events"
            elif n < MIN_N:
                judged.reason = f"too few events (n={n}, at least {MIN_N})"
            elif patients < MIN_PATIENTS:
                judged.reason = f"too few patients (about {patients:.0f}, at least {MIN_PATIENTS})"
            elif status == "unknown" and not expected:  # a mixture of devices, whose shares nobody knows, differs from any reference
                judged.reason = NOT_TOLD
            elif expected and against == POOLED:
                judged.reason = f"its own reference is too small (at least {MIN_REFERENCE} samples)"  # other devices' tags would be news for ever
            else:
                judged.mix, judged.left_out = _mixed(self.reference, baseline, sketch)
                changes, judged.shifts, judged.reason = changes_of(self.reference, baseline, sketch)
                if not judged.reason:
                    found[device] = changes
                    judged.unjudged = unjudged(self.reference, baseline, sketch)
        for status in ("known", "unseen", "unknown"):  # an unseen device is expected to differ and must not lend its level to others
            self._decide({device: (out[device], changes) for device, changes in found.items() if out[device].status == status}, once=once)
        return out

    def _decide(self, found: Mapping[str, tuple[Judged, list[Change]]], *, once: bool) -> None:
        judged = {device: changes for device, (_, changes) in found.items() if changes}
        single = _controlled({device: [c.p for c in changes] for device, changes in judged.items()})
        lasting: dict[str, list[Change]] = {}
        for device, changes in judged.items():
            if once:
                lasting[device] = [replace(c, lasting=c.p) if c.matters else c for c in changes]
                continue
            windows = [*self.history.get(device, []), {c.name: (c.p, c.effect) for c in changes}]
            lasting[device] = [_lasting(c, windows) for c in changes]
            self.history[device] = windows[-(WINDOWS - 1) :]
        level = min(MOST, FALSE_ALARMS * len(judged))
        adjusted = _controlled({device: [c.lasting for c in changes] for device, changes in lasting.items()})
        for device, changes in lasting.items():
            told = [replace(c, adjusted=float(q)) for c, q in zip(changes, adjusted[device], strict=True)]
            found[device][0].compared = told
            found[device][0].watch = _strongest([c for c, q in zip(told, single[device], strict=True) if q <= WATCH and c.matters])
            found[device][0].alarm = _strongest([c for c in told if c.adjusted <= level])


def _lasting(change: Change, windows: Sequence[Past]) -> Change:
    """With the p of its last windows together: of the second smallest, if the two are large enough and point the same way."""
    past = sorted(window[change.name] for window in windows if change.name in window)
    if len(past) < 2:
        return change
    mean = (past[0][1] + past[1][1]) / 2
    if abs(mean) < LEAST[change.aspect]:
        return change
    p = two_sample.persistent(np.array([past[1][0]]), len(past), np.array([change.shared]))
    return replace(change, lasting=float(p[0]))


def _strongest(changes: list[Change]) -> list[Change]:
    """An embedding comes last, however strong: nobody can act on it while anything else is known."""
    return sorted(changes, key=lambda c: (c.feature.startswith(embedding.PREFIX), c.lasting, c.p, -abs(c.effect)))


def strata_of(reference: Reference, baseline: Baseline) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """(strata,) reference events; which of them can be compared with; which one stands for patients of whom nothing is told."""
    there = baseline.sketch.counts[:, 0].sum(-1).astype(np.float64)
    told = np.array([name != case_mix.NOT_GIVEN for name in reference.strata])
    return there, told & (there >= case_mix.CELL), ~told


def _mixed(reference: Reference, baseline: Baseline, window: Sketch) -> tuple[list[Mixed], float]:
    """How the case mix changed, and the share of events that the reference has nothing to compare with."""
    there, usable, unknown = strata_of(reference, baseline)
    if len(there) == 1:
        return [], 0.0
    seen = window.counts[:, 0].sum(-1).astype(np.float64)
    out = float(seen[~usable & ~unknown].sum() / max(1.0, seen.sum()))
    a, b = np.where(unknown, 0, there), np.where(unknown, 0, seen)
    if not case_mix.changed(a, b, a.sum() / baseline.sketch.per_patient, b.sum() / window.per_patient):
        return [], out
    mixed = [Mixed(name, float(x), float(y)) for name, x, y in zip(reference.strata, a / a.sum(), b / b.sum(), strict=True)]
    return sorted((m for m in mixed if abs(m.after - m.before) >= MIN_MIX), key=lambda m: -abs(m.after - m.before)), out


def changes_of(reference: Reference, baseline: Baseline, window: Sketch) -> tuple[list[Change], dict[str, float], str]:
    """Every comparison of a device, the shifts of its numbers, and why there is none.

    The reference is weighted to the window's case mix: an event of a stratum weighs the window's share of the stratum over the reference's events
    in it. Events of patients of whom nothing is told are compared with the whole reference; those of a stratum that the reference hardly has, with
    nothing.
    """
    mix = window.counts[:, 0].sum(-1).astype(np.float64)
    there, usable, unknown = strata_of(reference, baseline)
    taken = usable | unknown
    apart = np.array([name in reference.apart for name in reference.features])
    if mix[taken].sum() < MIN_N:
        return [], {}, "its case mix is not in the reference"
    share = np.where(taken, mix, 0) / mix[taken].sum()
    weight = np.divide(share, there, out=np.zeros_like(share), where=usable) + share[unknown].sum() / there.sum()  # of one reference event
    before = np.einsum("s,sfb->fb", weight, baseline.sketch.counts.astype(np.float64))
    after = window.counts[taken].sum(0).astype(np.float64)
    own = before.sum(1)  # of features that only events of another kind have: those events over the others
    before[apart] /= np.maximum(own[apart], 1e-300)[:, None]
    mixed = np.where(apart, own * there.sum(), 1 / (there * weight**2).sum())  # Kish: events that weigh the same
    spare = np.maximum(1.0, 1 + (baseline.per_patient - 1) * baseline.alike)
    m_all, n_all = mixed / spare, after[:1].sum(1) / np.maximum(1.0, 1 + (window.per_patient - 1) * baseline.alike)
    shared = n_all / (n_all + m_all)
    present_before, present_after = 1 - before[:, MISSING], 1 - after[:, MISSING] / np.maximum(after.sum(1), 1)
    order = slice(0, MISSING)
    compared = two_sample.numbers(before[:, order], after[:, order], m_all * present_before, n_all * present_after)
    out: list[Change] = []
    for f, name in enumerate(reference.features):
        gone = present_before[f] - present_after[f]
        if apart[f] and not _enough(baseline, window, f):
            continue
        if (gone or present_before[f] < 1) and not apart[f] and not name.startswith(embedding.PREFIX):  # not every server logs it
            p = two_sample.shares(np.array([1 - present_before[f]]), np.array([1 - present_after[f]]), m_all[f], n_all[f])
            out.append(
                Change(name, "missing", float(p[0]), float(gone), float(1 - present_before[f]), float(1 - present_after[f]), shared=float(shared[f]))
            )
        if name in baseline.places.categories:
            out += _categories(baseline, f, name, before[f], after[f], m_all[f], n_all[f])
        elif present_before[f] > 0 and present_after[f] > 0:
            aspect, size = _aspect(compared, f)
            out.append(
                _number(baseline, window, f, Change(name, aspect, float(compared.p[f]), size, None, None, shared=float(shared[f])), before, after)
            )
    shifts = {name: float(s) for name, s in zip(reference.features, compared.location, strict=True) if name not in baseline.places.categories}
    return out, shifts, ""


def unjudged(reference: Reference, baseline: Baseline, window: Sketch) -> str:
    """Of the features that only events of one kind have, those that could not be compared, and why; "" where all could.

    Events of a kind that are too small a part of the window to matter are not told.
    """
    why: dict[str, str] = {}
    for f, name in enumerate(reference.features):
        if name in reference.apart and not _enough(baseline, window, f):
            before, after = _counted(baseline, window, f)
            if after >= MIN_SHARE * window.n and after:
                why[reference.apart[name]] = f"{after} here (at least {MIN_N}), {before} in its reference (at least {MIN_REFERENCE})"
    return "; ".join(f"{what} were not compared: {numbers}" for what, numbers in why.items())


def _enough(baseline: Baseline, window: Sketch, f: int) -> bool:
    before, after = _counted(baseline, window, f)
    return before >= MIN_REFERENCE and after >= MIN_N


def _counted(baseline: Baseline, window: Sketch, f: int) -> tuple[int, int]:
    """Events that have the feature, in reference and window."""
    return int(baseline.sketch.counts[:, f, :MISSING].sum()), int(window.counts[:, f, :MISSING].sum())


def _categories(baseline: Baseline, f: int, name: str, before: NDArray[np.float64], after: NDArray[np.float64], m: float, n: float) -> list[Change]:
    """The value whose share changed most clearly; one comparison for each feature, corrected for the number of values."""
    values = [*baseline.places.categories[name], UNHEARD]
    at = np.array([*range(1, 2 * len(values) - 2, 2), NEW])
    a, b = before[at] / max(before[:MISSING].sum(), 1e-300), after[at] / max(after[:MISSING].sum(), 1e-300)
    if not before[:MISSING].sum() or not after[:MISSING].sum():
        return []
    p = two_sample.shares(a, b, m, n)
    k = int(np.lexsort((-(b - a), p))[0])  # of two that mirror each other, the one that became more frequent is named
    tests = int(((a > 0) | (b > 0)).sum())
    return [Change(name, "category", min(1.0, float(p[k]) * max(1, tests - 1)), float(b[k] - a[k]), float(a[k]), float(b[k]), values[k], n / (n + m))]


def _aspect(compared: two_sample.Compared, f: int) -> tuple[Aspect, float]:
    """What changed of a number, and by how much. The test of the spread measures from the middle of both: it also speaks where a window is elsewhere
    and narrow, and then nothing is "more spread"."""
    aspect, location, distance = KINDS[compared.kind[f]], float(compared.location[f]), float(compared.distance[f])
    if aspect == "scale":
        if abs(location) < FAR and compared.scale[f] * compared.spread[f] > 0:
            return aspect, float(compared.scale[f])
        aspect = "location" if abs(location) >= MIN_SHIFT else "any"
    return aspect, location if aspect == "location" else -distance if location < 0 else distance


def _number(baseline: Baseline, window: Sketch, f: int, change: Change, before: NDArray[np.float64], after: NDArray[np.float64]) -> Change:
    """A changed number with where its values lie. before, after: (features, BINS) counts, as compared."""
    edges = baseline.places.edges[f]
    edges = edges[np.isfinite(edges)]
    a, b = before[f, :MISSING], after[f, :MISSING]
    low, high = (float(end) for end in window.ends[f])
    ends = (low, high) if low <= high else None
    if not len(edges):
        return change
    middle = _between(edges, b, ends)
    was, now = ([end for end in span if np.isfinite(end)] for span in (_between(edges, a, None), middle))
    told = replace(change, before=sum(was) / len(was), after=sum(now) / len(now), middle=middle, ends=ends)
    if len(edges) <= VALUES:
        told = replace(told, moved=_moved(edges, a / max(a.sum(), 1e-300), b / max(b.sum(), 1e-300)))
    known = PARAMETERS.get(change.feature)
    return replace(told, effect=0.0) if known and _same(known.least, told, edges) else told


def _same(least: float, change: Change, edges: NDArray[np.float64]) -> bool:
    """Whether a parameter differs by less than anybody cares about: another crop by three pixels, a clock that is .1 Hz off."""
    if not least or change.ends is None or change.before is None or change.after is None:
        return False
    near = abs(change.after - change.before) < least * abs(change.before)
    wide = least * np.abs(edges[[0, -1]])
    return bool(near and change.ends[0] >= edges[0] - wide[0] and change.ends[1] <= edges[-1] + wide[1])


def _between(edges: NDArray[np.float64], counts: NDArray[np.float64], ends: tuple[float, float] | None) -> tuple[float, float]:
    """Between which values the median of counted values lies: one value where it lies on an edge, or where all values are the same."""
    if ends is not None and ends[0] == ends[1]:
        return ends
    cumulated = np.cumsum(counts)
    place = int(np.searchsorted(cumulated, cumulated[-1] / 2))
    if place % 2:
        value = float(edges[min(place // 2, len(edges) - 1)])
        return value, value
    above = place // 2
    return float(edges[above - 1]) if above else -np.inf, float(edges[above]) if above < len(edges) else np.inf


def _moved(edges: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[Moved, ...]:
    """The values of the reference, and the gaps beside them where something lies in them."""
    bounds = [-np.inf, *np.repeat(edges, 2).tolist(), np.inf]  # of gap, edge, gap, ...
    spans = pairwise(bounds)
    shares = zip(spans, before.tolist(), after.tolist(), strict=False)
    return tuple(Moved(float(low), float(high), a, b) for (low, high), a, b in shares if a or b)


def _controlled(p: Mapping[str, Sequence[float]]) -> dict[str, NDArray[np.float64]]:
    """Adjusted p: Benjamini-Hochberg within a device; the devices, by their Simes p, again. A feature needs both."""
    if not p:
        return {}
    within = {device: two_sample.benjamini_hochberg(values) for device, values in p.items()}
    between = two_sample.benjamini_hochberg([float(adjusted.min()) for adjusted in within.values()])
    return {device: np.maximum(adjusted, q) for (device, adjusted), q in zip(within.items(), between, strict=True)}
