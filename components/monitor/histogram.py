"""Two histograms over each other, as SVG: what a device showed before, filled; what it shows now, as a line."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 168, 54


def histogram_of(
    before: NDArray[np.float64], after: NDArray[np.float64], ends: Sequence[str], *, alarm: bool, title: str = "grey: reference; line: this window"
) -> str:
    """Counts of the same bars, before and after, as SVG.

    Args:
        ends: Texts under the axis: of its two ends, or one for each bar.
    """
    heights = [side / max(side.sum(), 1e-300) for side in (before, after)]
    top = max(float(h.max()) for h in heights) or 1.0
    colour = "#b3261e" if alarm else "#1f5fa8"
    filled = f'<path d="{_steps(heights[0] / top)}V{HEIGHT - 12}H0Z" fill="#c9cdd3"/>'
    line = f'<path d="{_steps(heights[1] / top)}" fill="none" stroke="{colour}" stroke-width="1.6"/>'
    if len(ends) == len(before):
        wide = WIDTH / len(ends)
        most = max(3, int(wide / 5.5))  # characters that fit under a bar
        short = [t[: most - 1] + "…" if len(t) > most else t for t in ends]
        axis = "".join(_label((n + 0.5) * wide, "middle", t) for n, t in enumerate(short))
    else:
        axis = _label(0, "start", ends[0]) + _label(WIDTH, "end", ends[-1])
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img"><title>{html.escape(title)}</title>'
    return f"{head}{filled}{line}{axis}</svg>"


def _label(x: float, anchor: str, text: str) -> str:
    return f'<text x="{x:.0f}" y="{HEIGHT - 1}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _steps(heights: NDArray[np.float64]) -> str:
    floor, width = HEIGHT - 12, WIDTH / len(heights)
    return f"M0,{floor}" + "".join(f"V{floor - h * (floor - 2):.1f}H{(i + 1) * width:.1f}" for i, h in enumerate(heights))
