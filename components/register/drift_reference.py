"""What production is compared with: every validation and test sample as the server would have logged it.

With cross-validation only validation samples were answered by the model that is served. External sets come from elsewhere, and would hide a
drift towards them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core.dataset import Dataset
from components.core.devices import sample_figures
from components.core.errors import DataError
from components.core.operating_point import Decision
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 512
KEPT = ("sample_id", "group_id", "device_key", "manufacturer", "model", "split", "label", "abstain")


def write(path: Path, spec: DiseaseSpec, dataset: Path, predictions: pd.DataFrame, decision: Decision) -> None:
    """Write `reference.parquet`: device, label, `score_<class>`, decision, image figures in the spec's unit, acquisition; sorted by sample."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pandas(build(spec, dataset, predictions, decision), preserve_index=False).replace_schema_metadata(None), path)


def build(spec: DiseaseSpec, dataset: Path, predictions: pd.DataFrame, decision: Decision) -> pd.DataFrame:
    """See `write`. Raises DataError when the predictions are of another dataset."""
    import pandas as pd

    data = Dataset(dataset, expect=spec)
    served = predictions["split"].isin(("val", "test") if spec.split.folds == 1 else ("val",))
    ordered = predictions[served].sort_values("sample_id", kind="stable").reset_index(drop=True)
    place = pd.Series(np.arange(len(data.manifest)), index=data.manifest["sample_id"])
    if not ordered["sample_id"].isin(place.index).all():
        raise DataError(
            "predictions of another dataset", where="reference.parquet", got=f"{int((~ordered['sample_id'].isin(place.index)).sum())} unknown samples"
        )
    rows = place[ordered["sample_id"]].to_numpy(dtype=np.int64)
    scores = [f"score_{name}" for name in spec.target.classes]
    columns: dict[str, Any] = {name: ordered[name].to_numpy() for name in (*KEPT, *scores)}
    columns["decision"] = decision.names(ordered[scores].to_numpy(dtype=np.float64))
    parts = [sample_figures(data.read(rows[start : start + CHUNK]), spec) for start in range(0, len(rows), CHUNK)]
    for name in parts[0]:
        columns[name] = np.concatenate([part[name] for part in parts])
    manifest = data.manifest.iloc[rows]
    columns["software"] = manifest["software"].to_numpy()
    columns |= {name: manifest[name].to_numpy() for name in data.manifest.columns if name.startswith("acq_")}
    return pd.DataFrame(columns)
