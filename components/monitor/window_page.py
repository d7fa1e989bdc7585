"""The page of one window that an alarm links to, or of one look at a whole log: who sent what, what changed. One file, no script, no network.

Everything is drawn from sketches: the events themselves are not needed, and a page can be made again from the state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.atomic import atomic_file
from components.core.figure_words import Words
from components.monitor import words
from components.monitor.detect import FALSE_ALARMS, MIN_N, MIN_PATIENTS, Change
from components.monitor.histogram import histogram_of
from components.monitor.reference import Baseline
from components.monitor.sketch import MISSING, NEW, Sketch

TEMPLATE = Path(__file__).with_name("window.html.j2")
BARS = 20
PLOTS = 6
VALUES = 5


@dataclass(frozen=True)
class DevicePart:
    """One device's part of the page.

    Args:
        row: Its row of the history.
        changes: What changed, the strongest first; drawn up to `PLOTS`.
        baseline, sketch: What is drawn; no sketch, nothing drawn.
        reference: Events in the device's own reference.
        sentences: Everything that changed, in words.
    """

    row: Mapping[str, Any]
    changes: Sequence[Change]
    baseline: Baseline
    sketch: Sketch | None
    reference: int
    sentences: Sequence[str] = ()


def write(
    path: Path,
    facts: Mapping[str, Any],
    parts: Sequence[DevicePart],
    alarms: Sequence[Mapping[str, Any]],
    *,
    of: Words,
    notes: Sequence[str] = (),
    evidently: bool = False,
) -> None:
    """Write the page.

    Args:
        facts: title, model, version, digest, synthetic, start, end (texts); `look`: not a window of several, but one look at a log; n: its answers.
        alarms: Open ones.
        of: The words of the model's samples.
        notes: What was left out, in sentences.
        evidently: Whether `evidently.html` lies beside the page.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    order = {"drift": 0, "watch": 1, "no drift found": 3, "cannot judge": 4}
    told = []
    for part in sorted(parts, key=lambda p: (order[p.row["verdict"]] - (2 if p.row["status"] == "unseen" else 0), p.row["label"])):
        plots, drawn = [], set()
        for change in part.changes:
            if part.sketch is not None and change.feature not in drawn and len(plots) < PLOTS:
                drawn.add(change.feature)
                plots.append({"name": _titled(change.feature, of), "svg": _plot(part.baseline, part.sketch, change, of), "p": change.p})
        told.append({**part.row, "plots": plots, "reference": part.reference, "sentences": part.sentences})
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    facts = {"look": False} | dict(facts)
    text = template.render(
        facts=facts, devices=told, alarms=alarms, notes=notes, evidently=evidently, min_n=MIN_N, min_patients=MIN_PATIENTS, level=FALSE_ALARMS
    )
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _titled(feature: str, of: Words) -> str:
    unit = of.unit_of(feature)
    return words.plain(feature, of) + (f" ({unit})" if unit else "")


def _plot(baseline: Baseline, sketch: Sketch, change: Change, of: Words) -> str:
    f = baseline.places.features.index(change.feature)
    before, after = (s.counts[:, f].sum(0).astype(np.float64) for s in (baseline.sketch, sketch))
    if change.aspect == "missing":
        sides = [np.array([c[MISSING], c[:MISSING].sum()]) for c in (before, after)]
        return histogram_of(sides[0], sides[1], ("missing", "there"), alarm=True)
    if change.feature in baseline.places.categories:
        return _categories([of.value(change.feature, value) for value in baseline.places.categories[change.feature]], before, after)
    edges = baseline.places.edges[f][np.isfinite(baseline.places.edges[f])]
    low, high = float(edges[0]), float(edges[-1])
    bins = np.linspace(low, high if high > low else low + 1, BARS + 1)
    sides = [_spread(c, edges, bins) for c in (before, after)]
    return histogram_of(
        sides[0], sides[1], tuple(f"{side} {of.value(change.feature, end)}" for side, end in (("under", low), ("over", high))), alarm=True
    )


def _spread(counts: NDArray[np.float64], edges: NDArray[np.float64], bins: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts by place as a histogram over `bins`, with one bar more at either end for what lies beyond the reference."""
    out = np.zeros(len(bins) + 1)
    for k, edge in enumerate(edges):
        at = int(np.clip(np.searchsorted(bins, edge, "right"), 1, len(bins) - 1))
        out[at] += counts[2 * k + 1]
        if k:
            share = np.diff(np.clip(bins, edges[k - 1], edge)) / (edge - edges[k - 1])
            out[1:-1] += counts[2 * k] * share
    out[0] += counts[0]
    out[-1] += counts[2 * len(edges)]
    return out


def _categories(names: Sequence[str], before: NDArray[np.float64], after: NDArray[np.float64]) -> str:
    at = [(name, 2 * k + 1) for k, name in enumerate(names)] + [("other", NEW)]
    used = sorted((pair for pair in at if before[pair[1]] or after[pair[1]]), key=lambda pair: -(before[pair[1]] + after[pair[1]]))[:VALUES]
    sides = [np.array([c[k] for _, k in used]) for c in (before, after)]
    return histogram_of(sides[0], sides[1], tuple(name for name, _ in used), alarm=True)
