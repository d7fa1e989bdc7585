"""evaluate: what the model is worth on the test split, overall and by device, and on every external test set.

Calibration and operating point come from validation; test samples are looked at once, at the end. Everything a server needs to answer as
evaluated goes out as data: `calibration.json`, `operating_point.json`. With cross-validation each fold's model is calibrated and decides
by its own validation groups and answers for its own test groups; what is served belongs to the registered model and its validation groups.

Where the spec names covariates: scores are calibrated, calibrated probabilities are fused (`components/core/fusion.py`), and the operating point is
chosen on the fused ones. A server does the same in the same order, so that a sample without covariates gets the image model's calibrated answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import calibration, fusion, gates, metrics, operating_point
from components.core.atomic import atomic_dir
from components.core.calibration import Calibration
from components.core.dataset import Dataset
from components.core.devices import DeviceProfile
from components.core.errors import DataError
from components.core.folds import fold_numbers
from components.core.fusion import Fusion, Told
from components.core.models import build
from components.core.models.samples import Samples
from components.core.operating_point import Decision
from components.core.spec import DiseaseSpec, External
from components.core.step import Progress
from components.evaluate import covariates
from components.evaluate.figures import probabilities, recompute, truth, wanted
from components.evaluate.report import render

if TYPE_CHECKING:
    import pandas as pd

    from components.core.models.family import Estimator

BATCH = 256
SCHEMA = 1


def evaluate(spec: DiseaseSpec, *, dataset: Path, features: Path, model: Path, validation: Path, out: Path) -> dict[str, Any]:
    """Measure a model.

    Args:
        dataset, features, model, validation: As written by the steps before.
        out: Written whole or not at all: `metrics.json`, `predictions.parquet`, `calibration.json`, `operating_point.json`, `report.html`; and,
            where the spec aggregates and all of these are of groups, `samples.parquet`, and `samples` in `calibration.json`; `fusion.json`, where
            the spec names covariates.

    Returns:
        The contents of `metrics.json`: `metrics`, `devices`, `worst_device`, `operating_point`, `calibration`, `baseline`, `counts`, `leakage`,
        `verdict`; and, where the spec has them, `classes`, `pairs`, `coarse`, `folds`, `over_folds`, `external`, `froc`, `reader`,
        `covariates`.

    Raises:
        SpecError: A metric that this target does not have. DataError: an input that does not fit.
    """
    wanted(spec)
    facts = _facts(dataset, model, validation)
    numbers = fold_numbers(Dataset(dataset, expect=spec).manifest) if spec.split.folds != 1 else []
    _fits(spec, model, facts["model"], numbers)
    external = _external(spec, dataset)
    estimator = build(spec, facts["model"].get("family"))
    bench = Bench(spec, estimator, dataset, features)

    tables, folds, samples = [], [], []
    for place, number in enumerate(numbers):
        found = bench.answers(model / "folds" / f"{number:03d}", ("val", "test"), fold=number, what=f"scoring fold {place + 1} of {len(numbers)}")
        own = fitted_on(spec, found["val"], lenient=True)
        tables.append(own.table(spec, "test", found["test"], fold=number))
        samples.append(("test", found["test"].samples))
        folds.append({"fold": number, "calibration": own.calibration.to_dict(), "operating_point": own.decision.to_dict()})
        if own.fusion is not None:
            folds[-1]["fusion"] = own.fusion.to_dict()
    found = bench.answers(model, ("val", *(() if numbers else ("test",)), *(e.split for e in external)), what="scoring")
    served = fitted_on(spec, found["val"])
    tables = [served.table(spec, name, answers) for name, answers in found.items()] + tables
    samples = [(name, answers.samples) for name, answers in found.items()] + samples
    decision, on_validation = served.decision, tables[0][~tables[0]["abstain"]]
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
    figures["calibration"] = served.calibration.to_dict()
    if served.fusion is not None:
        figures["covariates"] |= covariates.fitted(spec, served.fusion, [Fusion.from_dict(f["fusion"]) for f in folds])
    figures["leakage"] = [
        {"id": str(c.get("id")), "says": str(c.get("says")), "seen": str(c.get("seen"))}
        for c in facts["validation"].get("checks", [])
        if c.get("section") == "Leakage" and c.get("status") not in ("pass", None)
    ]
    of_samples = _joined([table.assign(split=name) for name, table in samples if table is not None]) if spec.aggregate is not None else None
    if of_samples is not None:
        from components.evaluate.group_figures import add

        facts["plots"] = add(spec, figures, predictions, of_samples)
    if spec.aggregate is None and not numbers:  # the estimator holds the registered model's weights
        from components.evaluate import heatmap

        facts["plots"] = heatmap.plots(spec, estimator, dataset=dataset, features=features, reference=_reference(model), predictions=predictions)
    judgement = gates.judge(spec, figures, validation=str(facts["validation"].get("verdict", "unknown")))
    figures["verdict"], figures["reasons"] = judgement.verdict, judgement.reasons
    page = render(spec, figures, predictions, decision, judgement, synthetic=synthetic, facts=facts)
    with atomic_dir(out) as folder:
        _write_json(folder / "metrics.json", figures)
        more: dict[str, Any] = {"folds": [{"fold": f["fold"]} | f["calibration"] for f in folds]} if folds else {}
        if (of_single := found["val"].sample_calibration) is not None:
            more["samples"] = of_single.to_dict()
        _write_json(folder / "calibration.json", served.calibration.to_dict() | more)
        more = {"folds": [{"fold": f["fold"]} | f["operating_point"] for f in folds]} if folds else {}
        _write_json(folder / "operating_point.json", decision.to_dict() | more)
        if served.fusion is not None:
            more = {"folds": [{"fold": f["fold"]} | f["fusion"] for f in folds]} if folds else {}
            _write_json(folder / "fusion.json", served.fusion.to_dict() | more)
        write_predictions(folder / "predictions.parquet", predictions)
        if of_samples is not None:
            write_predictions(folder / "samples.parquet", of_samples)
        (folder / "report.html").write_text(page, encoding="utf-8")
    return figures


@dataclass(frozen=True)
class Answers:
    """What a model says to some samples, or, where the spec aggregates, to some groups.

    Args:
        rows: Manifest rows, index 0..n-1.
        labels: (n,) class indices, or (n, K) for multi-label.
        scores: (n, K) logits.
        missing_profile: (n,) bool, answered on the reference for want of a profile.
        samples: Of groups: what was said to their samples, calibrated.
        sample_calibration: That calibration; the one that is fitted on `scores` is of groups.
        told: What was known of each sample's patient; empty where the spec names no covariates.
    """

    rows: pd.DataFrame
    labels: NDArray[Any]
    scores: NDArray[np.float32]
    missing_profile: NDArray[np.bool_]
    samples: pd.DataFrame | None = None
    sample_calibration: Calibration | None = None
    told: Sequence[Told] = ()


class Bench:
    """Loads weights and lets them answer. One estimator serves all folds, whose weights follow one another in it."""

    def __init__(self, spec: DiseaseSpec, estimator: Estimator, dataset: Path, features: Path) -> None:
        self.spec, self.estimator, self.dataset, self.features = spec, estimator, dataset, features

    def answers(self, weights: Path, splits: Sequence[str], *, fold: int | None = None, what: str) -> dict[str, Answers]:
        """{split: answers} of the model in the folder `weights`; one for each group where the spec aggregates."""
        from feature_store.covariates import told
        from feature_store.training import load_split

        self.estimator.load(weights)
        reference = _reference(weights)
        opened = {name: load_split(self.spec, self.dataset, self.features, name, reference, fold=fold) for name in splits}
        progress = Progress(what, sum(len(split.samples) for split in opened.values()))
        found = {
            name: Answers(
                split.rows,
                split.samples.labels,
                scored(self.estimator, split.samples, progress),
                split.missing_profile,
                told=told(self.features, split.rows, self.spec.covariates),
            )
            for name, split in opened.items()
        }
        if self.spec.aggregate is None:
            return found
        from components.evaluate.groups import aggregated

        return aggregated(self.spec, found, weights)


@dataclass(frozen=True)
class Fitted:
    """What validation made of a model's scores: probabilities and a rule."""

    calibration: Calibration
    decision: Decision
    fusion: Fusion | None = None

    def table(self, spec: DiseaseSpec, name: str, answers: Answers, fold: int | None = None) -> pd.DataFrame:
        """One split's rows of `predictions.parquet`; every figure needs no more than these."""
        import pandas as pd

        rows, image = answers.rows, calibration.apply(self.calibration, answers.scores)
        p = image if self.fusion is None else self.fusion.apply(image, answers.told)
        table = pd.DataFrame({key: rows[key].astype(object) for key in ("sample_id", "group_id", "device_key", "manufacturer", "model")})
        table["split"] = name
        table["fold"] = pd.Series([fold] * len(rows), dtype="Int32")
        table["label"] = rows["label"].astype("Int32")
        if answers.samples is not None and "reader_score" in rows:
            table["reader_score"] = rows["reader_score"].astype(np.float64)
        decided = self.decision.decide(p)
        if spec.target.kind == "multilabel":
            for k, title in enumerate(spec.target.classes):
                table[f"label_{title}"] = np.asarray(answers.labels)[:, k].astype(np.int32)
                table[f"decided_{title}"] = decided[:, k].astype(np.int32)
        else:
            table["decided"] = decided.astype(np.int32)
        for k, title in enumerate(spec.target.classes):
            table[f"score_{title}"] = p[:, k]
        if self.fusion is not None:
            table = table.assign(**covariates.columns(spec, image, list(answers.told)))
        # A server abstains on a device without a profile when the spec says so; its samples must not flatter or spoil the figures.
        table["abstain"] = answers.missing_profile & (spec.normalise.missing_profile == "abstain")
        return table


def fitted_on(spec: DiseaseSpec, validation: Answers, *, lenient: bool = False) -> Fitted:
    """Calibration, then fusion, then the operating point, from validation answers.

    Args:
        lenient: A fold whose validation groups hold one class has no threshold to choose; it then decides at one half.
    """
    fitted, fused = calibration.fit(validation.labels, validation.scores), None
    p = calibration.apply(fitted, validation.scores)
    if spec.covariates:
        groups = None if spec.split.grouping == "none" else list(validation.rows["group_id"])
        fused = fusion.fit(validation.labels, p, validation.told, groups, classes=spec.target.classes, names=spec.covariates)
        p = fused.apply(p, validation.told)
    # Samples on which a server abstains have no say in the threshold.
    answered = ~(validation.missing_profile & (spec.normalise.missing_profile == "abstain"))
    y, p = np.asarray(validation.labels)[answered], p[answered]
    if lenient and spec.target.kind == "binary" and len(np.unique(y)) < 2:
        words = "probability at least 0.5, since its validation holds one class"
        return Fitted(fitted, Decision("threshold", spec.target.classes, (0.5,), spec.target.positive, words, len(y)), fused)
    return Fitted(fitted, operating_point.choose(spec, y, p), fused)


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


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(tables, ignore_index=True)


def _on_validation(spec: DiseaseSpec, rows: pd.DataFrame, decision: Decision) -> dict[str, Any]:
    if not spec.positive_indices:
        return {}
    among = list(spec.positive_indices)
    positive, decided = np.isin(truth(rows, spec), among), np.isin(decision.decide(probabilities(rows, spec)), among)
    groups = None if spec.split.grouping == "none" else rows["group_id"].to_numpy(dtype=object)
    return {
        "sensitivity": metrics.sensitivity(positive, decided, groups).to_dict(),
        "specificity": metrics.specificity(positive, decided, groups).to_dict(),
    }


def _external(spec: DiseaseSpec, dataset: Path) -> list[External]:
    """The external test sets that the dataset holds."""
    there = set(Dataset(dataset).manifest["split"].unique())
    return [e for e in spec.external if e.role == "test" and e.split in there]


def _fits(spec: DiseaseSpec, model: Path, facts: dict[str, Any], numbers: list[int]) -> None:
    """Raises DataError unless the model has one fit for each fold of the dataset."""
    fitted = [f.get("fold") for f in facts.get("folds", [])]
    if fitted != numbers or (spec.split.folds != 1 and not numbers):
        raise DataError("model and dataset have other folds", where=str(model), got=f"{len(fitted)} in the model", allowed=f"{len(numbers)}")


def _facts(dataset: Path, model: Path, validation: Path) -> dict[str, Any]:
    data = Dataset(dataset)
    damage = data.quarantine.loc[~data.quarantine["skipped"], "reason"]
    return {
        "dataset": data.info,
        "quarantine": {str(reason): int(count) for reason, count in damage.value_counts().items()},
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
