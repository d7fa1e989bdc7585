"""The report's plots as inline SVG, written by hand: small, the same bytes every time, and coloured by the page's light or dark theme.

Classes that the page styles: `grid`, `tick`, `title`, `note`, `line`, `band`, `point`, `mark`, `whisker`, `ref`, `bar`; `c0` to `c5` colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from components.core import metrics

TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


class Plot:
    """A plot area with two linear axes.

    Args:
        x, y: Ranges of the data.
        size: Of the plot area in pixels; margins come around it.
    """

    def __init__(
        self, x: tuple[float, float], y: tuple[float, float], *, size: tuple[int, int] = (320, 260), left: int = 52, bottom: int = 44, right: int = 14
    ) -> None:
        self.x, self.y, (self.w, self.h) = x, y, size
        self.left, self.top, self.bottom, self.right = left, 12, bottom, right
        self.parts: list[str] = []

    def px(self, value: float) -> float:
        return self.left + (value - self.x[0]) / (self.x[1] - self.x[0]) * self.w

    def py(self, value: float) -> float:
        return self.top + self.h - (value - self.y[0]) / (self.y[1] - self.y[0]) * self.h

    def axes(self, xlabel: str, ylabel: str = "", *, xticks: Sequence[float] = TICKS, yticks: Sequence[float] = TICKS) -> None:
        """Grid, ticks and axis titles."""
        for tick in xticks:
            x = _n(self.px(tick))
            self.parts.append(f'<path class="grid" d="M{x} {self.top}V{self.top + self.h}"/>')
            self.text(self.px(tick), self.top + self.h + 16, f"{tick:g}", "tick", "middle")
        for tick in yticks:
            y = _n(self.py(tick))
            self.parts.append(f'<path class="grid" d="M{self.left} {y}H{self.left + self.w}"/>')
            self.text(self.left - 7, self.py(tick) + 4, f"{tick:g}", "tick", "end")
        self.text(self.left + self.w / 2, self.top + self.h + 36, xlabel, "title", "middle")
        if ylabel:
            x, y = 14, self.top + self.h / 2
            self.parts.append(f'<text class="title" text-anchor="middle" transform="translate({x} {_n(y)}) rotate(-90)">{escape(ylabel)}</text>')

    def text(self, x: float, y: float, words: str, kind: str = "note", anchor: str = "start") -> None:
        """Words at a pixel position."""
        self.parts.append(f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(words)}</text>')

    def line(self, x: ArrayLike, y: ArrayLike, kind: str = "line c0") -> None:
        self.parts.append(f'<path class="{kind}" d="{self._path(x, y)}"/>')

    def band(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, kind: str = "band c0") -> None:
        xs = np.asarray(x, dtype=float)
        self.parts.append(f'<path class="{kind}" d="{self._path(np.r_[xs, xs[::-1]], np.r_[np.asarray(high), np.asarray(low)[::-1]])}Z"/>')

    def steps(self, edges: ArrayLike, heights: ArrayLike, kind: str) -> None:
        """A filled histogram outline."""
        e, h = np.asarray(edges, dtype=float), np.asarray(heights, dtype=float)
        self.parts.append(f'<path class="{kind}" d="{self._path(np.r_[np.repeat(e, 2)], np.r_[0, np.repeat(h, 2), 0])}Z"/>')

    def point(self, x: float, y: float, kind: str = "point c0", radius: float = 4) -> None:
        self.parts.append(f'<circle class="{kind}" cx="{_n(self.px(x))}" cy="{_n(self.py(y))}" r="{_n(radius)}"/>')

    def segment(self, x0: float, y0: float, x1: float, y1: float, kind: str = "whisker c0") -> None:
        self.parts.append(f'<path class="{kind}" d="M{_n(self.px(x0))} {_n(self.py(y0))}L{_n(self.px(x1))} {_n(self.py(y1))}"/>')

    def svg(self, label: str) -> str:
        """The whole element; `label` is what a screen reader says."""
        width, height = self.left + self.w + self.right, self.top + self.h + self.bottom
        box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        head = f'<svg role="img" aria-label="{escape(label)}" {box} style="max-width:100%;height:auto">'
        return head + "".join(self.parts) + "</svg>"

    def _path(self, x: ArrayLike, y: ArrayLike) -> str:
        xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
        points: list[str] = []
        for a, b in zip(xs, ys, strict=True):
            place = f"{_n(self.px(float(a)))} {_n(self.py(float(b)))}"
            if not points or points[-1] != place:
                points.append(place)
        return "M" + "L".join(points)


def roc(curves: Sequence[tuple[str, NDArray[Any], NDArray[Any], NDArray[Any] | None]], operating: tuple[float, float] | None, words: str) -> str:
    """ROC curves.

    Args:
        curves: Name, labels of 0 and 1, scores, groups; the first one gets a band.
        operating: False-positive rate and sensitivity on the test split.
        words: Beside the curve, e.g. the AUC with its interval.
    """
    plot = Plot((0, 1), (0, 1), size=(300, 300))
    plot.axes("false-positive rate (1 - specificity)", "sensitivity")
    plot.line([0, 1], [0, 1], "ref")
    if len(curves) == 1:
        _, labels, scores, groups = curves[0]
        grid = np.linspace(0, 1, 61)
        low, high = metrics.roc_band(labels, scores, grid, groups)
        plot.band(grid, low, high)
    for k, (_, labels, scores, _) in reversed(list(enumerate(curves))):
        rate, hits, _ = metrics.roc(labels, scores)
        plot.line(rate, hits, f"line c{k % 6}")
    if operating is not None:
        plot.point(*operating, kind="point mark", radius=5)
        right = operating[0] < 0.6
        plot.text(plot.px(operating[0]) + (10 if right else -10), plot.py(operating[1]) + 16, "operating point", "note", "start" if right else "end")
    if len(curves) > 1:
        for k, (name, *_) in enumerate(curves):
            plot.text(plot.left + plot.w - 8, plot.top + plot.h - 10 - 16 * (len(curves) - 1 - k), name, f"note fill{k % 6}", "end")
    else:
        plot.text(plot.left + plot.w - 8, plot.top + plot.h - 10, words, "note", "end")
    return plot.svg(f"ROC curve. {words}")


def reliability(labels: NDArray[Any], probabilities: NDArray[np.float64]) -> str:
    """Predicted against observed share in bins of equal mass, with Wilson intervals; the same bins as the calibration error."""
    plot = Plot((0, 1), (0, 1), size=(300, 300))
    plot.axes("predicted probability", "observed share")
    plot.line([0, 1], [0, 1], "ref")
    y, p = np.asarray(labels, dtype=bool), np.asarray(probabilities)
    member = metrics.bins_of(p)
    for number in np.unique(member):
        inside = member == number
        x, seen = float(p[inside].mean()), metrics.share(y[inside])
        if seen.value is None or seen.low is None or seen.high is None:
            continue
        plot.segment(x, seen.low, x, seen.high)
        plot.point(x, seen.value)
    return plot.svg("Reliability diagram: observed share over predicted probability")


def histogram(classes: Sequence[str], labels: NDArray[Any], p: NDArray[np.float64], positive: int, threshold: float | None) -> str:
    """Calibrated probability of the positive class, by true class; heights are shares of the class."""
    edges = np.linspace(0, 1, 26)
    shares = [np.histogram(p[labels == k], bins=edges)[0] / max(1, int((labels == k).sum())) for k in range(len(classes))]
    top = max(0.05, float(max(s.max() for s in shares))) * 1.12
    plot = Plot((0, 1), (0, top), size=(300, 300))
    step = next(s for s in (0.02, 0.05, 0.1, 0.2, 0.25) if top / s <= 6)
    plot.axes(f"calibrated probability of '{classes[positive]}'", "share of the class", yticks=np.arange(0, top, step).round(3).tolist())
    for k in sorted(range(len(classes)), key=lambda k: k == positive):
        plot.steps(edges, shares[k], f"bar c{0 if k == positive else 1}")
    if threshold is not None:
        plot.segment(threshold, 0, threshold, top, "ref")
        right = threshold < 0.5
        plot.text(plot.px(threshold) + (6 if right else -6), plot.top + 12, f"threshold {threshold:.3f}", "note", "start" if right else "end")
    for k, name in enumerate(classes):
        plot.text(plot.left + plot.w / 2, plot.top + 32 + 16 * k, f"■ {name}", f"note fill{0 if k == positive else 1}", "middle")
    return plot.svg(f"Histogram of the calibrated probability of {classes[positive]} by true class")


def forest(rows: Sequence[tuple[str, dict[str, Any]]], overall: dict[str, Any], bound: float) -> str:
    """AUC of each device with its interval; a device that cannot be judged says so."""
    lows = [e["low"] for _, e in (*rows, ("", overall)) if e["value"] is not None]
    start = max(0.0, np.floor((min([*lows, bound]) - 0.04) * 10) / 10) if lows else 0.0
    lines = [*rows, ("all devices", overall)]
    plot = Plot((start, 1), (0, len(lines)), size=(430, 30 * len(lines)), left=310, right=150)
    count = round((1 - start) / 0.1)
    plot.axes("AUC with 95 % interval", xticks=[round(start + 0.1 * i, 1) for i in range(0, count + 1, 1 if count <= 6 else 2)], yticks=())
    plot.segment(bound, 0, bound, len(lines), "ref")
    for i, (name, estimate) in enumerate(lines):
        middle = len(lines) - i - 0.5
        kind = "c1" if i == len(rows) else "c0"
        plot.text(plot.left - 10, plot.py(middle) + 4, _short(name), "tick strong" if i == len(rows) else "tick", "end")
        if estimate["value"] is None:
            plot.text(plot.px(start) + 6, plot.py(middle) + 4, estimate.get("reason", "insufficient evidence"), "note")
            continue
        plot.segment(estimate["low"], middle, estimate["high"], middle, f"whisker {kind}")
        plot.point(estimate["value"], middle, f"point {kind}")
        words = f"{estimate['value']:.3f} ({estimate['low']:.3f}-{estimate['high']:.3f})"
        plot.text(plot.left + plot.w + 8, plot.py(middle) + 4, words, "tick")
    return plot.svg("AUC by device")


def learning(history: Sequence[dict[str, float]]) -> str:
    """Training and validation loss by epoch."""
    epochs = [float(e["epoch"]) for e in history]
    series = [
        (name, [(e["epoch"], e[key]) for e in history if np.isfinite(e.get(key, np.nan))])
        for name, key in (("training", "train_loss"), ("validation", "val_loss"))
    ]
    top = max((v for _, points in series for _, v in points), default=1.0) * 1.08 or 1.0
    plot = Plot((min(epochs), max(*epochs, min(epochs) + 1)), (0, top), size=(300, 300))
    step = 10 ** np.floor(np.log10(top))
    step = next(s for s in (step / 5, step / 2, step, step * 2) if top / s <= 6)
    every = max(1, int(np.ceil(len(epochs) / 6)))
    plot.axes("epoch", "loss", xticks=epochs[::every], yticks=[float(f"{t:.6g}") for t in np.arange(0, top, step)])
    for k, (name, points) in enumerate(series):
        if points:
            plot.line([a for a, _ in points], [b for _, b in points], f"line c{k}")
            plot.text(plot.left + plot.w - 8, plot.top + 14 + 16 * k, f"■ {name}", f"note fill{k}", "end")
    return plot.svg("Training and validation loss by epoch")


def _n(value: float) -> str:
    """A pixel to one tenth, without a trailing zero."""
    return f"{value:.1f}".removesuffix(".0")


def _short(name: str) -> str:
    """At most 42 characters; the end, which tells devices apart, is kept."""
    return name if len(name) <= 42 else f"{name[:22]}…{name[-19:]}"
