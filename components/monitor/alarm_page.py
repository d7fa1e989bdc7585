"""`alarms.html`: what an operator opens first. One file, no script, no network; one tab per disease, as on the charts.

It shows what Evidently's pages cannot: links to the monitor's reports, alarms that were closed, and the newest figures of every device in one table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from components.core.errors import DataError
from components.monitor.dashboard_state import STATUSES, VERDICTS, DiseaseState
from components.monitor.dashboard_workspace import project_id, unjudged

TEMPLATE = Path(__file__).with_name("alarms.html.j2")


def render(states: Sequence[DiseaseState], unreadable: Mapping[str, DataError], *, charts: bool) -> str:
    """The page.

    Args:
        unreadable: Diseases whose state cannot be read, with the reason; each is an alarm of its own.
        charts: Whether Evidently's pages are served beside this one, under `/projects/`.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["when"] = _when
    environment.filters["number"] = _number
    diseases = [
        {
            "state": state, "project": project_id(state.disease), "devices": _devices(state), "unjudged": unjudged(state),
            "closed": [alarm for alarm in state.alarms if not alarm.open],
            "window": None if state.history.empty else state.history["window_start"].max(),
            "report": None if state.history.empty else state.report_of(state.history["window_start"].max()),
        }
        for state in states
    ]  # fmt: skip
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        diseases=diseases,
        unreadable=unreadable,
        charts=charts,
        synthetic=any(state.synthetic for state in states),
        total=sum(len(state.open_alarms) for state in states) + len(unreadable),
    )


def _devices(state: DiseaseState) -> list[dict[str, Any]]:
    """The newest window, what needs a look first."""
    rows: list[dict[str, Any]] = [{str(name): value for name, value in row.items()} for row in state.latest().to_dict("records")]
    alarmed = {alarm.device_key for alarm in state.open_alarms}

    def interest(row: dict[str, Any]) -> tuple[Any, ...]:
        verdict = VERDICTS.index(row["verdict"]) if row["verdict"] in VERDICTS else len(VERDICTS)
        return (row["device_key"] not in alarmed, verdict, STATUSES.index(row["status"]) if row["status"] in STATUSES else 0, row["label"])

    return [{**row, "alarmed": row["device_key"] in alarmed} for row in sorted(rows, key=interest)]


def _when(time: datetime) -> str:
    return f"{time:%d %b %Y}" if (time.hour, time.minute) == (0, 0) else f"{time:%d %b %Y, %H:%M}"


def _number(value: Any, digits: int = 2) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"
