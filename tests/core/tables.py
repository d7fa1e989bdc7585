"""Small tables for the tests of families: two classes, told apart by a few of the columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"


def table_spec(kind: str, *, columns: int = 12, classes: int = 2, epochs: int = 1, lr: float = 3e-3, **options: Any) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["input"] |= {
        "modality": "tabular",
        "unit": "1",
        "layout": "table",
        "shape": [columns],
        "spacing_mm": None,
        "dtype": "float32",
        "range": [0, 1],
    }
    raw["normalise"] = {"method": "range", "missing_profile": "pooled"}
    if classes > 2:
        raw["target"] |= {"kind": "multiclass", "classes": [f"c{k}" for k in range(classes)], "positive": None}
    raw["families"] = {"f": {"kind": kind, "epochs": epochs, "batch": 16, "lr": lr, "options": options}}
    raw["default_family"] = "f"
    return DiseaseSpec.from_json(json.dumps(raw))


def table(n: int = 96, *, columns: int = 12, classes: int = 2, seed: int = 0) -> Samples:
    """Columns of very different scales in [0, 1]; class k raises every `classes`-th column by two deviations."""
    draw = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    z = draw.normal(size=(n, columns)) + 2.0 * (np.arange(columns)[None] % classes == labels[:, None])
    x = (0.5 + 0.05 * z * 10.0 ** -(np.arange(columns) % 4)).astype(np.float32)
    return Samples(batch=lambda rows: x[rows], labels=labels.astype(np.int64), groups=np.arange(n).astype(object))
