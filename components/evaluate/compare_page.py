"""The comparison of families as one page and one plot; it opens without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.core.spec import DiseaseSpec
from components.evaluate.plots import Plot
from components.evaluate.report import TITLES

ROW, CELL = 34, 46


def render(spec: DiseaseSpec, result: dict[str, Any]) -> str:
    """The page as HTML, from the contents of compare.json."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("compare.html.j2").render(
        spec=spec, result=result, titles=TITLES, plot=plot(result), duration=_duration, signed=_signed
    )


def plot(result: dict[str, Any]) -> str:
    """AUC of every family and ensemble with its interval on the left, correlation of errors between families on the right."""
    families = result["families"]
    n = len(families)
    lows = [f["metrics"]["auc"]["low"] for f in families if f["metrics"]["auc"]["value"] is not None]
    start = min(0.9, max(0.0, int((min(lows, default=0.5) - 0.03) * 10) / 10))
    drawn = Plot((start, 1), (0, n), size=(330, ROW * n), left=150, right=70 + CELL * n + 170)
    count = round((1 - start) / 0.1)
    drawn.axes("AUC with 95 % interval", xticks=[round(start + 0.1 * i, 1) for i in range(0, count + 1, 1 if count <= 5 else 2)], yticks=())
    for i, one in enumerate(families):
        middle = n - i - 0.5
        colour = "c1" if one["chosen"] else "c0"
        drawn.text(drawn.left - 10, drawn.py(middle) + 4, one["family"], "tick strong" if one["chosen"] else "tick", "end")
        auc = one["metrics"]["auc"]
        if auc["value"] is None:
            drawn.text(drawn.px(start) + 6, drawn.py(middle) + 4, "too few test samples", "note")
            continue
        drawn.segment(auc["low"], middle, auc["high"], middle, f"whisker {colour}")
        drawn.point(auc["value"], middle, f"point {colour}")
        drawn.text(drawn.left + drawn.w + 8, drawn.py(middle) + 4, f"{auc['value']:.3f}", "tick")
    _cells(drawn, result["correlation"], left=drawn.left + drawn.w + 150)
    return drawn.svg("AUC of each family with its interval, and how far the families err together")


def _cells(drawn: Plot, correlation: dict[str, Any], *, left: float) -> None:
    names, values = correlation["families"], correlation["values"]
    for i, row in enumerate(values):
        y = drawn.top + ROW * i
        drawn.text(left - 8, y + ROW / 2 + 4, str(i + 1), "tick", "end")
        drawn.text(left + CELL * len(names) + 8, y + ROW / 2 + 4, f"{i + 1} {names[i]}", "tick")
        for k, value in enumerate(row):
            x = left + CELL * k
            if value is not None:
                paint = f"fill:var(--c0);fill-opacity:{max(0.0, value) * 0.55:.2f}"
                drawn.parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" width="{CELL - 2}" height="{ROW - 2}" rx="3" style="{paint}"/>')
            drawn.text(x + CELL / 2 - 1, y + ROW / 2 + 4, "-" if value is None else f"{value:.2f}", "tick", "middle")
    for k in range(len(names)):
        drawn.text(left + CELL * k + CELL / 2, drawn.top + ROW * len(names) + 16, str(k + 1), "tick", "middle")
    drawn.text(left + CELL * len(names) / 2, drawn.top + ROW * len(names) + 36, "correlation of errors", "title", "middle")


def _signed(figure: dict[str, Any]) -> str:
    if figure["value"] is None:
        return str(figure.get("reason", "insufficient evidence"))
    return f"{figure['value']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
