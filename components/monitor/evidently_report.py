"""Evidently's own report of the same comparison, saved as one offline page.

Evidently's `GroupBy` raises for an unseen device and leaves the device's name off every chart, so each (feature, device) pair is a column of
its own here, `noise_sd | Maker Model (key)`, empty in the rows of other devices. Its tests take samples as independent and one column at a time;
so that two pages never contradict each other, the test it is given returns the figures of `tests_by_device.py`.
"""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.monitor.tests_by_device import LEVEL, Finding

if TYPE_CHECKING:
    import pandas as pd

METHOD = "ks-by-device"


def save(
    path: Path,
    reference: pd.DataFrame,
    current: pd.DataFrame,
    findings: Mapping[str, Finding],
    labels: Mapping[str, str],
    *,
    synthetic: bool,
    at: datetime,
) -> bool:
    """Write Evidently's page; False when no device has enough samples to be judged, and then there is none.

    Args:
        reference, current: Columns `device_key` and the features.
        labels: device_key -> the name that a reader sees.
        at: Time of the snapshot: the last request of the window.
    """
    os.environ["DO_NOT_TRACK"] = "1"  # Evidently sends usage statistics otherwise
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    columns: dict[str, tuple[str, str]] = {f"{name} | {labels[key]}": (key, name) for key, f in findings.items() for name in f.changes}
    if not columns:
        return False
    _register({column: (findings[key].changes[name].adjusted, findings[key].changes[name].alarm) for column, (key, name) in columns.items()})
    wide = [_wide(table, columns, findings, is_reference=n == 0) for n, table in enumerate((reference, current))]
    definition = DataDefinition(numerical_columns=list(columns))
    report = Report([ValueDrift(column=column, method=METHOD, threshold=LEVEL) for column in columns])
    before, now = (Dataset.from_pandas(table, data_definition=definition) for table in wide)
    report.run(now, before, timestamp=at).save_html(str(path))
    _mark(path, synthetic)
    return True


def _wide(table: pd.DataFrame, columns: Mapping[str, tuple[str, str]], findings: Mapping[str, Finding], *, is_reference: bool) -> pd.DataFrame:
    import pandas as pd

    def values(key: str, name: str) -> pd.Series:
        everyone = is_reference and findings[key].status == "unseen"  # an unseen device stands against the pooled reference
        return (table if everyone else table[table["device_key"] == key])[name]

    return pd.DataFrame({column: values(*pair) for column, pair in columns.items()})


def _register(results: Mapping[str, tuple[float, bool]]) -> None:
    """Give Evidently a test of our own that looks results up by column."""
    from evidently.legacy.calculations.stattests.registry import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    def look_up(reference: pd.Series, current: pd.Series, feature_type: Any, threshold: float) -> tuple[float, bool]:
        return results[str(current.name)]

    test = StatTest(METHOD, "Kolmogorov-Smirnov, p corrected over features and devices", [ColumnType.Numerical], LEVEL)
    register_stattest(test, look_up)


def _mark(path: Path, synthetic: bool) -> None:
    """Put a line with the way back, and the mark of synthetic data, on top of Evidently's page."""
    note = "Evidently's charts of the comparison in drift.html. " + ("SYNTHETIC DATA: says nothing about patients." if synthetic else "")
    banner = f'<p style="font:14px sans-serif;margin:8px 24px">{html.escape(note)} <a href="drift.html">Back to the summary</a></p>'
    text = path.read_text(encoding="utf-8")
    at = text.index("<body")
    end = text.index(">", at) + 1
    path.write_text(text[:end] + banner + text[end:], encoding="utf-8")
