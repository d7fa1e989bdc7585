"""From a trained sample model to a trained aggregator: what turns a slide's tiles into one answer.

It learns from validation groups. The sample model has seen the training samples, so what it says of them is cleaner than anything that it
will ever say again. Two things then rest on the same groups, the aggregator and, in evaluate, threshold and calibration; so what evaluate
sees of validation groups comes from aggregators that have not learned from them (`groups.parquet`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import aggregates, calibration
from components.core.aggregates import group_table
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

    from components.core.models.family import Estimator

BATCH = 256
FACTS, GROUPS = "aggregate.json", "groups.parquet"


def fit(spec: DiseaseSpec, estimator: Estimator, samples: Samples, rows: pd.DataFrame, folder: Path, *, seed: int) -> dict[str, Any]:
    """Write `aggregate.json` (the samples' calibration), `groups.parquet` and what the method keeps into the model's folder.

    Args:
        samples, rows: The validation split with its manifest rows.

    Returns:
        Facts for model.json.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    assert spec.aggregate is not None
    scores = np.concatenate([estimator.scores(samples.batch(chosen)) for chosen in _batches(len(samples))])
    fitted = calibration.fit(samples.labels, scores)
    table = rows.reset_index(drop=True).copy()
    p: NDArray[np.float64] = calibration.apply(fitted, scores)
    for k, name in enumerate(spec.target.classes):
        table[f"score_{name}"] = p[:, k]
    outside = group_table.out_of_fold(lambda: aggregates.build(spec), table, spec, seed=seed)
    aggregator = aggregates.build(spec)
    aggregator.fit(table, seed=seed)
    aggregator.save(folder)
    pq.write_table(pa.Table.from_pandas(outside, preserve_index=False).replace_schema_metadata(None), folder / GROUPS)
    facts = {"method": spec.aggregate.method, "groups": len(outside), "calibration": fitted.to_dict()}
    (folder / FACTS).write_text(json.dumps(facts, indent=1, sort_keys=True), encoding="utf-8")
    return {"method": spec.aggregate.method, "groups": len(outside)}


def _batches(n: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(start + BATCH, n)) for start in range(0, n, BATCH)]
