"""`drift.html`: what a physicist reads first. One file, no script, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.monitor.tests_by_device import LEVEL, MIN_EFFECT, Change, Finding

if TYPE_CHECKING:
    import pandas as pd

TEMPLATE = Path(__file__).with_name("drift.html.j2")
BINS = 24
WIDTH, HEIGHT = 168, 54
PLAIN = {
    "mean": "mean intensity",
    "sd": "contrast (standard deviation)",
    "p01": "darkest 1 %",
    "p50": "median intensity",
    "p99": "brightest 1 %",
    "noise_sd": "noise",
    "sharpness": "sharpness",
}


def feature_name(name: str) -> str:
    """A feature in plain words."""
    return PLAIN.get(name, f"probability of {name.removeprefix('score_')}" if name.startswith("score_") else name)


def say(name: str, change: Change) -> str:
    """One change in words: direction, and size in the reference's standard deviations."""
    if change.shift is None or abs(change.shift) < 0.1:
        return f"{feature_name(name)} spread differently"
    return f"{feature_name(name)} {'higher' if change.shift > 0 else 'lower'} by {abs(change.shift):.1f} SD"


def say_all(changes: Mapping[str, Change]) -> list[str]:
    """Every change that counts, the largest first."""
    return [say(name, change) for name, change in sorted(changes.items(), key=lambda c: -c[1].ks) if change.alarm]


def at_most_three(sentences: list[str]) -> str:
    """The first three, and how many more there are."""
    more = len(sentences) - 3
    return ", ".join(sentences[:3]) + (f", and {more} more" if more > 0 else "")


def write(
    path: Path, found: dict[str, Any], findings: Mapping[str, Finding], reference: pd.DataFrame, current: pd.DataFrame, *, evidently: bool
) -> None:
    """Render the page.

    Args:
        found: The contents of drift.json.
        reference, current: Columns `device_key` and the features, for the plots.
        evidently: Whether `evidently.html` lies beside the page.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    devices = []
    for key, finding in findings.items():
        # Unseen and changed devices come first: the order of a reader's interest.
        before = reference if finding.status == "unseen" else reference[reference["device_key"] == key]
        now = current[current["device_key"] == key]
        plots = [
            {"name": feature_name(name), "change": change, "svg": histogram_svg(before[name], now[name], alarm=change.alarm)}
            for name, change in finding.changes.items()
        ]
        devices.append({**found["devices"][key], "key": key, "plots": plots, "open": finding.status == "unseen" or finding.verdict == "drift"})
    order = {"unseen": 0, "known": 1, "silent": 3}
    devices.sort(key=lambda d: (order[d["status"]] + (d["verdict"] != "drift" and d["status"] == "known"), d["label"]))
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(found=found, devices=devices, evidently=evidently, level=LEVEL, min_effect=MIN_EFFECT)
    path.write_text(text, encoding="utf-8")


def histogram_svg(reference: pd.Series, current: pd.Series, *, alarm: bool) -> str:
    """Two histograms of equal area over each other: the reference filled grey, the window as a line.

    The axis spans the central 99 % of both; what lies beyond is counted in the outermost bins.
    """
    a, b = (side.dropna().to_numpy(dtype=float) for side in (reference, current))
    both = np.concatenate([np.quantile(side, [0.005, 0.995]) for side in (a, b)])
    low, high = float(both.min()), float(both.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    sides = [np.histogram(np.clip(side, low, high), edges)[0].astype(np.float64) for side in (a, b)]
    title = f"grey: reference, median {_number(np.median(a))}; line: this window, median {_number(np.median(b))}"
    return histogram_of(sides[0], sides[1], (_number(low), _number(high)), alarm=alarm, title=title)


def histogram_of(
    before: NDArray[np.float64], after: NDArray[np.float64], ends: Sequence[str], *, alarm: bool, title: str = "grey: reference; line: this window"
) -> str:
    """Counts of the same bars, before and after, as SVG.

    Args:
        ends: Texts under the axis: of its two ends, or one for each bar.
    """
    import html

    heights = [side / max(side.sum(), 1e-300) for side in (before, after)]
    top = max(float(h.max()) for h in heights) or 1.0
    colour = "#b3261e" if alarm else "#1f5fa8"
    filled = f'<path d="{_steps(heights[0] / top)}V{HEIGHT - 12}H0Z" fill="#c9cdd3"/>'
    line = f'<path d="{_steps(heights[1] / top)}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    if len(ends) == len(before):
        wide = WIDTH / len(ends)
        most = max(3, int(wide / 6.5))  # characters that fit under a bar
        short = [t[: most - 1] + "…" if len(t) > most else t for t in ends]
        axis = "".join(_label((n + 0.5) * wide, "middle", t) for n, t in enumerate(short))
    else:
        axis = _label(0, "start", ends[0]) + _label(WIDTH, "end", ends[-1])
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img"><title>{html.escape(title)}</title>'
    return f"{head}{filled}{line}{axis}</svg>"


def _label(x: float, anchor: str, text: str) -> str:
    import html

    return f'<text x="{x:.0f}" y="{HEIGHT - 3}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _steps(heights: NDArray[np.float64]) -> str:
    floor, width = HEIGHT - 12, WIDTH / len(heights)
    return f"M0,{floor}" + "".join(f"V{floor - h * (floor - 2):.1f}H{(i + 1) * width:.1f}" for i, h in enumerate(heights))


def _number(value: float | None) -> str:
    """Three significant digits, without an exponent where a reader does not need one."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
