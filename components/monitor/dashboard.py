"""Everything the dashboard keeps, brought up to the monitor's state: Evidently workspace, alarm page, metrics file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from components.core.atomic import write_text
from components.core.errors import DataError
from components.monitor import alarm_page, dashboard_workspace, prometheus
from components.monitor.dashboard_state import DiseaseState, read_all


@dataclass(frozen=True)
class Built:
    """One build.

    Args:
        metrics, page: The texts of `/metrics` and of the alarm page as it is served.
        changes: What the workspace was changed by.
    """

    states: list[DiseaseState]
    unreadable: dict[str, DataError]
    metrics: str
    page: str
    changes: dashboard_workspace.Changes

    @property
    def alarms(self) -> int:
        """Open alarms of all diseases."""
        return sum(len(state.open_alarms) for state in self.states)


def build(state: Path, workspace: Path, *, url: str | None = None) -> Built:
    """Read the state and write what changed: `workspace/`, `<state>/alarms.html`, `<state>/metrics.prom`.

    Args:
        url: Where people reach the dashboard. Default: `prometheus.base_url()`.
    """
    state.mkdir(parents=True, exist_ok=True)
    states, unreadable = read_all(state)
    changes = dashboard_workspace.build(workspace, states, keep=unreadable)
    metrics = prometheus.exposition(states, unreadable, url=url)
    write_text(state / prometheus.FILE, metrics)
    (state / prometheus.FILE).chmod(0o644)
    write_text(state / "alarms.html", alarm_page.render(states, unreadable, charts=False))
    return Built(states, unreadable, metrics, alarm_page.render(states, unreadable, charts=True), changes)
