"""evaluate: what the model is worth on the test split, overall and by device.

Calibration and operating point come from validation; the test split is looked at once, at the end. Everything a server needs to answer as
evaluated goes out as data: `calibration.json`, `operating_point.json`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import calibration, gates, metrics, operating_point
from components.core.atomic import atomic_dir
from components.core.dataset import Dataset
from components.core.devices import DeviceProfile
from components.core.errors import DataError
from components.core.models import build
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec
from components.core.step import Progress
from components.evaluate.figures import probabilities, recompute, truth, wanted
from components.evaluate.report import render

if TYPE_CHECKING:
    import pandas as pd

    from components.core.models.family import Estimator
    from feature_store.training import Split

BATCH = 256
SCHEMA = 1


def evaluate(spec: DiseaseSpec, *, dataset: Path, features: Path, model: Path, validation: Path, out: Path) -> dict[str, Any]:
    """Measure a model.

    Args:
        dataset, features, model, validation: As written by the steps before.
        out: Written whole or not at all: `metrics.json`, `predictions.parquet`, `calibration.json`, `operating_point.json`, `report.html`.

    Returns:
        The contents of `metrics.json`: `metrics`, `devices`, `worst_device`, `operating_point`, `calibration`, `baseline`, `counts`, `verdict`.

    Raises:
        SpecError: A metric that this target does not have. DataError: an input that does not fit.
    """
    wanted(spec)
    from feature_store.training import load_split

    facts = _facts(dataset, model, validation)
    estimator = build(spec, facts["model"].get("family"))
    estimator.load(model)
    reference = _reference(model)
    splits = {name: load_split(spec, dataset, features, name, reference) for name in ("val", "test")}
    progress = Progress("scoring", sum(len(split.samples) for split in splits.values()))
    scores = {name: scored(estimator, split.samples, progress) for name, split in splits.items()}

    fitted = calibration.fit(splits["val"].samples.labels, scores["val"])
    tables = [_table(spec, name, split, calibration.apply(fitted, scores[name])) for name, split in splits.items()]
    on_validation = tables[0][~tables[0]["abstain"]]
    decision = operating_point.choose(spec, truth(on_validation, spec), probabilities(on_validation, spec))
    predictions = _joined(tables)

    synthetic = bool(facts["dataset"]["synthetic"])
    figures = recompute(predictions, spec, decision)
    figures = {
        "schema": SCHEMA,
        "disease": spec.name,
        "family": facts["model"].get("family", spec.default_family),
        "synthetic": synthetic,
        "split": "test",
        "level": metrics.LEVEL,
    } | figures
    figures["operating_point"] = decision.to_dict() | {"validation": _on_validation(spec, on_validation, decision)}
    figures["calibration"] = fitted.to_dict()
    judgement = gates.judge(spec, figures, validation=str(facts["validation"].get("verdict", "unknown")))
    figures["verdict"], figures["reasons"] = judgement.verdict, judgement.reasons
    page = render(spec, figures, predictions, decision, judgement, synthetic=synthetic, facts=facts)
    with atomic_dir(out) as folder:
        _write_json(folder / "metrics.json", figures)
        _write_json(folder / "calibration.json", fitted.to_dict())
        _write_json(folder / "operating_point.json", decision.to_dict())
        write_predictions(folder / "predictions.parquet", predictions)
        (folder / "report.html").write_text(page, encoding="utf-8")
    return figures


def scored(estimator: Estimator, samples: Samples, progress: Progress | None = None) -> NDArray[np.float32]:
    """(n, K) logits of a split, one batch in memory at a time. Raises DataError when one is not finite."""
    parts = []
    for start in range(0, len(samples), BATCH):
        rows = np.arange(start, min(start + BATCH, len(samples)))
        parts.append(estimator.scores(samples.batch(rows)))
        if progress:
            progress.advance(len(rows))
    found = np.concatenate(parts)
    if not np.isfinite(found).all():
        raise DataError(
            "the model gives scores that are not finite", where="evaluate", got=f"{int((~np.isfinite(found).all(1)).sum())} of {len(found)} samples"
        )
    return found


def write_predictions(path: Path, predictions: pd.DataFrame) -> None:
    """Parquet without pandas' own metadata, so that the same rows are the same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pandas(predictions, preserve_index=False).replace_schema_metadata(None), path)


def _table(spec: DiseaseSpec, name: str, split: Split, p: NDArray[np.float64]) -> pd.DataFrame:
    """One split's rows of `predictions.parquet`; every figure needs no more than these."""
    import pandas as pd

    rows = split.rows
    table = pd.DataFrame({key: rows[key].astype(object) for key in ("sample_id", "group_id", "device_key", "manufacturer", "model")})
    table["split"] = name
    table["label"] = rows["label"].astype("Int32")
    if spec.target.kind == "multilabel":
        for k, title in enumerate(spec.target.classes):
            table[f"label_{title}"] = np.asarray(split.samples.labels)[:, k].astype(np.int32)
    for k, title in enumerate(spec.target.classes):
        table[f"score_{title}"] = p[:, k]
    # A server abstains on a device without a profile when the spec says so; its samples must not flatter or spoil the figures.
    table["abstain"] = split.missing_profile & (spec.normalise.missing_profile == "abstain")
    return table


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


def _on_validation(spec: DiseaseSpec, rows: pd.DataFrame, decision: operating_point.Decision) -> dict[str, Any]:
    if spec.target.kind != "binary":
        return {}
    k = spec.positive_index
    positive, decided = truth(rows, spec) == k, decision.decide(probabilities(rows, spec)) == k
    groups = None if spec.split.grouping == "none" else rows["group_id"].to_numpy(dtype=object)
    return {
        "sensitivity": metrics.sensitivity(positive, decided, groups).to_dict(),
        "specificity": metrics.specificity(positive, decided, groups).to_dict(),
    }


def _facts(dataset: Path, model: Path, validation: Path) -> dict[str, Any]:
    data = Dataset(dataset)
    return {
        "dataset": data.info,
        "quarantine": {str(reason): int(count) for reason, count in data.quarantine["reason"].value_counts().items()},
        "validation": _read_json(validation / "validation.json"),
        "model": _read_json(model / "model.json"),
        "history": _read_json(model / "history.json"),
    }


def _reference(model: Path) -> DeviceProfile | None:
    """Training's reference; absent where devices are not normalised."""
    path = model / "reference.json"
    raw = _read_json(path) if path.exists() else None
    return DeviceProfile.from_dict(raw) if raw else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError("missing or not JSON", where=str(path)) from None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")
