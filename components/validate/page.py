"""`validation.html`: one file that opens offline, without scripts. Great Expectations' own Data Docs load from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

TEMPLATES = Path(__file__).parent / "templates"
ORDER = ("fail", "broken check", "warn", "pass")
MEANS = {
    "pass": "Every check holds. The pipeline goes on.",
    "warn": "The pipeline goes on. Read the warnings before you believe a figure of this data set.",
    "fail": "A critical check does not hold. The pipeline has stopped: nothing was trained on these data.",
    "broken check": "A check could not run, so nothing is known about what it asks. The pipeline has stopped until the check is mended.",
}


def render(report: dict[str, Any]) -> str:
    """The page of a `validation.json`."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    sections: dict[str, list[dict[str, Any]]] = {}
    for check in report["checks"]:
        sections.setdefault(check["section"], []).append(check)
    held = sorted((c for c in report["checks"] if c["status"] != "pass"), key=lambda c: ORDER.index(c["status"]))
    return environment.get_template("validation.html").render(
        report=report, sections=sections, held=held, order=ORDER, means=MEANS[report["verdict"]]
    )
