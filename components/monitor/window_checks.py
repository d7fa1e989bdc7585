"""Is a window's data fit to be judged at all? Great Expectations on the tallies of each device.

Events are counted when they are read and gone when the window is over, so what is checked is a table of one row for each device: how many of
its answers have no device, no figures, no probabilities or impossible ones. A miss is an alarm of kind `data_quality`: something between machine
and log is broken, whatever the images look like.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

TOLERANCE = 1e-3
"""By how much probabilities may miss a sum of 1."""
CHECKS: dict[str, tuple[float, str]] = {
    "without_device": (0.05, "of the answers name no device"),
    "without_figures": (0.02, "of the answers have no image figures"),
    "without_probabilities": (0.02, "of the decided answers have no probabilities"),
    "bad_probabilities": (0.0, "of the answers have probabilities outside [0, 1] or with another sum than 1"),
    "errors": (0.1, "of the requests were refused or failed"),
}
"""Share of a device's answers -> the largest that is let pass, and its words."""
LEAST = 10
"""Answers below which a share says nothing."""


def flags(part: pd.DataFrame, *, classes: Sequence[str], figures: Sequence[str], unknown: str) -> dict[str, NDArray[np.bool_]]:
    """Which answers miss a check: `n_<check>` -> (n,), and `asked`, which all are.

    Args:
        part: Answered or abstained rows of the log.
        classes: Of the model, for `score_<class>`.
        figures: Columns of image figures; none for tables.
        unknown: The device key of answers without one.
    """
    scores = np.stack([_numbers(part, f"score_{name}") for name in classes], axis=1) if classes else np.zeros((len(part), 0))
    has = np.isfinite(scores).any(1)
    decided = ~part["abstain"].to_numpy(bool)
    wrong: Any = has & ~((scores >= 0).all(1) & (scores <= 1).all(1) & (np.abs(scores.sum(1) - 1) <= TOLERANCE))
    bare: Any = ~np.isfinite(np.stack([_numbers(part, name) for name in figures], axis=1)).any(1) if figures else np.zeros(len(part), bool)
    return {
        "n_without_device": (part["device_key"].fillna(unknown).astype(str) == unknown).to_numpy(bool), "n_without_figures": bare,
        "n_without_probabilities": decided & ~has, "n_bad_probabilities": wrong, "asked": np.ones(len(part), bool),
    }  # fmt: skip


def tallies(part: pd.DataFrame, *, classes: Sequence[str], figures: Sequence[str], unknown: str) -> dict[str, float]:
    """How many answers miss each check, over one device's; adds up over batches. As `flags`."""
    return {name: float(which.sum()) for name, which in flags(part, classes=classes, figures=figures, unknown=unknown).items()}


def failed(devices: Mapping[str, Mapping[str, float]]) -> dict[str, list[str]]:
    """Device -> what is wrong, in words; only devices with a miss.

    Args:
        devices: Device -> its tallies of the window, with `errors`.
    """
    import pandas as pd

    rows = []
    for device, sums in devices.items():
        total = sums.get("asked", 0.0) + sums.get("errors", 0.0)
        if total >= LEAST:
            shares = {name: sums.get("errors" if name == "errors" else f"n_{name}", 0.0) / total for name in CHECKS}
            rows.append({"device": device, **shares})
    if not rows or not any(row[name] > most for row in rows for name, (most, _) in CHECKS.items()):
        return {}  # importing Great Expectations takes seconds: it is asked only where it has something to say
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations import expectations

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    asset = context.data_sources.add_pandas("dxflow").add_dataframe_asset("window")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": pd.DataFrame(rows)})
    between: Any = getattr(expectations, "ExpectColumnValuesToBeBetween")  # noqa: B009 - GX makes its exports at run time
    limits: list[Any] = [between(column=name, min_value=0, max_value=most) for name, (most, _) in CHECKS.items()]
    result = batch.validate(
        gx.ExpectationSuite("window", expectations=limits),
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["device"]},
    )
    out: dict[str, list[str]] = {}
    for one in result.results:
        config = one.expectation_config
        if one.success or config is None:
            continue
        name = str(config.kwargs["column"])
        for found in one.result.get("unexpected_index_list") or []:
            out.setdefault(found["device"], []).append(f"{100 * found[name]:.0f} % {CHECKS[name][1]}")
    return out


def _numbers(table: pd.DataFrame, name: str) -> Any:
    import pandas as pd

    return pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64) if name in table else np.full(len(table), np.nan)
