"""What production is compared with: every validation and test sample as the server would have logged it, and what each change of the
acquisition would have made of some of them.

With cross-validation only validation samples were answered by the model that is served. External sets come from elsewhere, and would hide a
drift towards them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core import acquisition_changes, image_quality
from components.core.covariates import NUMBERS, PREFIX
from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.operating_point import Decision
from components.core.package import EMBEDDING, GROUPS, OUTSIDE
from components.core.spec import DiseaseSpec
from components.register import onnx_embedding, outside_measure

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 512
SAMPLES = 100  # samples: the mean shift of a figure is then known to a tenth of its spread
KEPT = ("sample_id", "group_id", "device_key", "manufacturer", "model", "split", "label", "abstain")


def write(
    folder: Path,
    spec: DiseaseSpec,
    dataset: Path,
    features: Path,
    predictions: pd.DataFrame,
    decision: Decision,
    embedded: onnx_embedding.Embedded | None = None,
    groups: pd.DataFrame | None = None,
) -> str:
    """Write `reference.parquet` (device, label, `score_<class>`, decision, image figures in the spec's unit, acquisition, `cov_*` of the covariates
    that the spec names; sorted by sample) and,
    where samples can be acquired differently, `simulated.parquet` (`acquisition_changes.simulated` of some of them, evenly over the reference).
    With `embedded` the reference also has its columns, and `embedding.json` says how they are made. With `groups`, the predictions of groups where
    `predictions` are of their samples, `groups.parquet` says what the served model answered about each of them. `outside.json` is what tells
    images of something else.

    Returns:
        Whether such images are told, or why not (`components/core/outside.py`).
    """
    reference = build(spec, dataset, features, predictions, decision)
    if embedded is not None:
        reference = reference.assign(**embedded.columns(reference["sample_id"].tolist()))
        (folder / EMBEDDING).write_text(embedded.projection.to_json(), encoding="utf-8")
    _write(folder / "reference.parquet", reference)
    if groups is not None:
        _write(folder / GROUPS, of_groups(spec, dataset, groups, decision))
    if acquisition_changes.possible(spec):
        _write(folder / "simulated.parquet", simulated(spec, dataset, reference))
    return outside_measure.write(folder / OUTSIDE, spec, dataset, reference)


def splits(spec: DiseaseSpec) -> tuple[str, ...]:
    """Whose samples the served model itself answered without having learned from them."""
    return ("val", "test") if spec.split.folds == 1 else ("val",)


def _write(path: Path, table: pd.DataFrame) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None), path)


def build(spec: DiseaseSpec, dataset: Path, features: Path, predictions: pd.DataFrame, decision: Decision) -> pd.DataFrame:
    """The reference. Raises DataError when the predictions are of another dataset."""
    import pandas as pd

    from feature_store.covariates import told

    data = Dataset(dataset, expect=spec)
    served = predictions["split"].isin(splits(spec))
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
    parts = [image_quality.figures(data.read(rows[start : start + CHUNK]), spec) for start in range(0, len(rows), CHUNK)]
    for name in parts[0]:
        columns[name] = np.concatenate([part[name] for part in parts])
    manifest = data.manifest.iloc[rows]
    columns["patient_id"] = manifest["patient_id"].to_numpy()  # so that a patient can be taken out although the dataset is gone
    columns["software"] = manifest["software"].to_numpy()
    columns |= {name: manifest[name].to_numpy() for name in data.manifest.columns if name.startswith("acq_")}
    known = told(features, manifest, spec.covariates)
    for name in spec.covariates:
        kind = "float64" if name in NUMBERS else "string"
        columns[PREFIX + name] = pd.Series([one.get(name) for one in known], dtype=kind).to_numpy(dtype=float if name in NUMBERS else object)
    return pd.DataFrame(columns)


def of_groups(spec: DiseaseSpec, dataset: Path, predictions: pd.DataFrame, decision: Decision) -> pd.DataFrame:
    """The reference of answers about groups; their patients too, so that they can be taken out."""
    served = predictions[predictions["split"].isin(splits(spec))].sort_values("sample_id", kind="stable").reset_index(drop=True)
    scores = [f"score_{name}" for name in spec.target.classes]
    found = served[[*KEPT, *scores]].assign(decision=decision.names(served[scores].to_numpy(dtype=np.float64)))
    patients = Dataset(dataset, expect=spec).manifest.drop_duplicates("group_id").set_index("group_id")["patient_id"]
    return found.assign(patient_id=served["group_id"].map(patients).to_numpy())


def simulated(spec: DiseaseSpec, dataset: Path, reference: pd.DataFrame) -> pd.DataFrame:
    """Columns `cause`, `strength` and the image figures of up to `SAMPLES` of the reference's samples, changed and unchanged."""
    import pandas as pd

    data = Dataset(dataset, expect=spec)
    place = pd.Series(np.arange(len(data.manifest)), index=data.manifest["sample_id"])
    chosen = np.unique(np.linspace(0, len(reference) - 1, min(SAMPLES, len(reference))).astype(np.int64))
    rows = place[reference["sample_id"].iloc[chosen]].to_numpy(dtype=np.int64)
    return pd.DataFrame(acquisition_changes.simulated(data.read(rows), spec))
