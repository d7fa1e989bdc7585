"""From a trained sample model to a trained aggregator: what turns a slide's tiles into one answer.

It learns from validation groups. The sample model has seen the training samples, so what it says of them is cleaner than anything that it
will ever say again. Threshold and calibration of groups rest on validation as well; evaluate lets aggregators answer there for groups that
they have not learned from.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import aggregates, calibration
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

    from components.core.models.family import Estimator

BATCH = 256
FACTS = "aggregate.json"


def fit(spec: DiseaseSpec, estimator: Estimator, samples: Samples, rows: pd.DataFrame, folder: Path, *, seed: int) -> dict[str, Any]:
    """Write `aggregate.json` (with the samples' calibration; the one in `calibration.json` is of groups) and what the method keeps.

    Args:
        samples, rows: The validation split with its manifest rows.

    Returns:
        Facts for model.json.
    """
    assert spec.aggregate is not None
    scores = np.concatenate([estimator.scores(samples.batch(chosen)) for chosen in _batches(len(samples))])
    fitted = calibration.fit(samples.labels, scores)
    table = rows.reset_index(drop=True).copy()
    p: NDArray[np.float64] = calibration.apply(fitted, scores)
    for k, name in enumerate(spec.target.classes):
        table[f"score_{name}"] = p[:, k]
    aggregator = aggregates.build(spec)
    aggregator.fit(table, seed=seed)
    aggregator.save(folder)
    facts = {"method": spec.aggregate.method, "groups": int(table["group_id"].nunique())}
    text = json.dumps(facts | {"calibration": fitted.to_dict()}, indent=1, sort_keys=True)
    (folder / FACTS).write_text(text, encoding="utf-8")
    return facts


def _batches(n: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(start + BATCH, n)) for start in range(0, n, BATCH)]
