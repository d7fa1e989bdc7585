"""One answer for each group (a slide, an image, a recording) from its samples' answers, where the spec aggregates.

evaluate calls `aggregated` before it calibrates, so that probabilities, decisions and every figure are of groups; what samples said stays in
`Answers.samples`, for the metrics that need both (`group_figures.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core import aggregates, calibration
from components.core.aggregates import group_table
from components.core.calibration import Calibration
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

    from components.evaluate.step import Answers

SEED = 0
KEPT = ("sample_id", "group_id", "device_key", "manufacturer", "model", "place", "lesion_id")
TINY = 1e-6  # a share of samples may be 0; its logarithm is then this one's


def aggregated(spec: DiseaseSpec, found: dict[str, Answers], weights: Path) -> dict[str, Answers]:
    """Samples' answers of one model -> groups' answers: each group's first row stands for it, `sample_id` is the group's.

    Samples are calibrated on validation first. A method that learns, learns from validation, and answers there for groups that it has not
    learned from; nothing of it ever sees a test group.

    Args:
        found: {split: answers}, `val` among them.
        weights: The model's folder, or a fold's: a method that was trained there is loaded.
    """
    fitted = calibration.fit(found["val"].labels, found["val"].scores)
    tables = {name: _samples(spec, one, calibration.apply(fitted, one.scores)) for name, one in found.items()}
    one = aggregates.build(spec)
    if one.trained and (weights / "aggregate.safetensors").exists():
        one.load(weights)
    else:
        one.fit(tables["val"], seed=SEED)
    grouped = {name: one.apply(table) for name, table in tables.items() if name != "val"}
    grouped["val"] = group_table.out_of_fold(lambda: aggregates.build(spec), tables["val"], spec, seed=SEED)
    return {name: _groups(spec, found[name], tables[name], grouped[name], fitted) for name in found}


def _samples(spec: DiseaseSpec, answers: Answers, p: Any) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {name: answers.rows[name].to_numpy() for name in KEPT if name in answers.rows}
    columns |= {"label": np.asarray(answers.labels), "abstain": answers.missing_profile}
    if "group_label" in answers.rows:
        columns["group_label"] = answers.rows["group_label"].to_numpy()
    return pd.DataFrame(columns | {f"score_{name}": p[:, k] for k, name in enumerate(spec.target.classes)})


def _groups(spec: DiseaseSpec, answers: Answers, samples: pd.DataFrame, grouped: pd.DataFrame, fitted: Calibration) -> Answers:
    from components.evaluate.step import Answers as Made

    truth = group_table.labels(samples, spec)
    first = answers.rows.groupby("group_id", sort=True).head(1).set_index("group_id", drop=False).loc[grouped["group_id"]].reset_index(drop=True)
    rows = first.assign(sample_id=first["group_id"], label=[truth[str(g)] for g in grouped["group_id"]])
    # A group of whose samples one has no profile is answered on the reference.
    missing = samples.groupby("group_id")["abstain"].any().loc[grouped["group_id"]].to_numpy(dtype=bool)
    p = grouped[[f"score_{name}" for name in spec.target.classes]].to_numpy(dtype=np.float64)
    return Made(rows, rows["label"].to_numpy(dtype=np.int64), np.log(np.maximum(p, TINY)).astype(np.float32), missing, samples, fitted)
