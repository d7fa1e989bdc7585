"""Small runs of every kind of target, with folds and external sets: discs whose radius is the class, a network of a few weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from components.core import models
from components.core.atomic import atomic_dir
from components.core.dataset_writer import Sample, write_dataset
from components.core.folds import fold_numbers
from components.core.spec import DiseaseSpec
from components.train.folds import Task, fit, fit_folds, keep_folds
from tests.small_run import SIDE, small_spec

GRADES = ["none", "mild", "severe"]
FOLDS = 3
CLINIC = {"name": "clinic", "source": "clinic"}
NAMES = {"a" * 16: "SIEMENS", "b" * 16: "GE MEDICAL SYSTEMS", "c" * 16: "Philips"}


def spec_of(target: dict[str, Any], **changes: Any) -> DiseaseSpec:
    split = {"grouping": "patient", "train": 0.5, "val": 0.25, "test": 0.25}
    return small_spec(
        **{
            "target": {"source": "drawn by a test"} | target,
            "split": split,
            "normalise": {"method": "range"},
            "metrics": ["auc", "accuracy", "brier"],
            "gates": {"auc_low": 0.6, "device_auc_low": 0.5, "calibration_error": 0.4, "min_n": 50, "min_per_class": 10},
            "families": {"cnn": {"kind": "sun2016-cnn", "epochs": 3, "batch": 16, "lr": 0.02, "options": {"maps": [4], "same": True}}},
        }
        | changes
    )


def samples(spec: DiseaseSpec, *, groups: int, seed: int = 0, outside: int = 0, absent: int | None = None, spread: float = 0.8) -> list[Sample]:
    """Two samples of each group, device a or b; the last `outside` groups are an external set from device c. `absent`: a class test lacks."""
    rng = np.random.default_rng(seed)
    grid = np.arange(SIDE) - SIDE / 2 + 0.5
    radius = np.hypot(grid[:, None], grid)
    found = []
    classes = len(spec.target.classes)
    for g in range(groups):
        out = g >= groups - outside
        split = "external-clinic" if out else ("train", "train", "val", "test")[g % 4]
        fold = None
        if spec.split.folds != 1 and not out:
            split, fold = ("val" if g % 4 == 2 else "train"), (g if spec.split.folds == "group" else g // 4 % FOLDS)
        for n in range(2):
            label = int(rng.integers(classes))
            if split == "test" and label == absent:
                label = (label + 1) % classes
            size = rng.normal(2.5 + 5.0 * label / (classes - 1), spread)
            if spec.input.layout == "image":
                image = -850 + 800 / (1 + np.exp(2 * (radius - size))) + rng.normal(0, 60, radius.shape)
            else:  # waves that are louder the higher the class, between the ends of the range
                low, high = spec.input.range
                wave = np.sin(np.arange(np.prod(spec.input.shape)) / 3).reshape(spec.input.shape) * size / 10 + rng.normal(0, 0.1, spec.input.shape)
                image = low + (high - low) * np.clip(0.5 + wave / 3, 0.01, 0.99)[0]
            device = "c" * 16 if out else "ab"[g % 2] * 16
            row: dict[str, Any] = {
                "sample_id": f"s{g:04d}-{n}", "group_id": f"p{g:04d}", "patient_id": f"p{g:04d}", "series_id": f"x{g:04d}", "device_key": device,
                "manufacturer": NAMES[device], "model": "One", "software": "1", "split": split, "fold": fold, "synthetic": True,
            }  # fmt: skip
            if spec.target.kind == "multilabel":
                row["labels"] = [float(label > k) for k in range(classes)]
            else:
                row["label"] = label
            found.append(Sample(row, np.broadcast_to(image, spec.input.shape).astype(spec.input.dtype)))
    return found


def made(
    root: Path, spec: DiseaseSpec, *, rows: list[Sample] | None = None, checks: list[dict[str, Any]] | None = None, **options: Any
) -> dict[str, Path]:
    """`dataset`, `features`, `validation` and `model` under `root`, as evaluate takes them; `rows` instead of those that `options` draw."""
    rows = rows or samples(spec, **options)
    missing = {e.name for e in spec.external} if not options.get("outside") else set()
    told = {
        e.name: {"role": e.role, "split": e.split, "samples": 0 if e.name in missing else 2 * options["outside"], "missing": e.name in missing}
        for e in spec.external
    }
    write_dataset(
        root / "dataset", spec, rows, count=len(rows), quarantine=[], provenance={"reader": "image-csv"} | ({"external": told} if told else {})
    )
    (root / "features").mkdir()
    with atomic_dir(root / "validation") as folder:
        (folder / "validation.json").write_text(json.dumps({"verdict": "warn" if checks else "pass", "checks": checks or []}))
    import pyarrow.parquet as pq

    task = Task(spec, "cnn", 0, root / "dataset", root / "features")
    numbers = fold_numbers(pq.read_table(root / "dataset" / "manifest.parquet").to_pandas())
    folds = fit_folds(task, numbers, root / "work" / "folds")
    estimator = models.build(spec, "cnn")
    fitted = fit(task, estimator, checkpoint=root / "work", what="train")
    with atomic_dir(root / "model") as folder:
        weights = fitted.write(folder)
        keep_folds(numbers, root / "work" / "folds", folder)
        facts = {"family": "cnn", "kind": "sun2016-cnn", "seed": 0, "n_parameters": estimator.n_parameters, "feature_name": None}
        facts |= {"weights_sha256": weights} | fitted.facts() | ({"folds": folds} if folds else {})
        (folder / "model.json").write_text(json.dumps(facts))
        (folder / "spec.json").write_text(spec.to_json())
    return {name: root / name for name in ("dataset", "features", "model", "validation")}
