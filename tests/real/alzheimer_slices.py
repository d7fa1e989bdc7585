"""MRI slices without subject ids, published split: validate must raise its leakage warning by itself, and the report must carry it.

The steps are those of `dxflow run alzheimer-slices`, up to the evaluation. The network's accuracy stands beside the nearest neighbour's and a
linear model's: a neighbour that beats a line by far recognises heads, not dementia. None of these figures is a headline.
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import Dataset
from components.core.spec import DiseaseSpec

ROOT = Path(__file__).parents[2]
SEED = 0


def main() -> None:
    """Print one JSON object."""
    folder = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data") / "alzheimer-mri-slices"
    spec = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "alzheimer-slices.toml")
    with tempfile.TemporaryDirectory() as made:
        os.environ.setdefault("DXFLOW_HOME", f"{made}/home")
        os.environ.setdefault("DXFLOW_KEY", "public data without persons")
        with redirect_stdout(StringIO()):  # events
            figures, checks, page = _steps(spec, folder, Path(made))
        data = Dataset(Path(made) / "dataset")
        baseline = _baselines(data)
    warned = {c["id"]: c for c in checks if c["status"] == "warn"}
    found = warned.get("siblings_across")
    accuracy = figures["metrics"]["accuracy"]
    counts = data.info["counts"]
    print(
        json.dumps(
            {
                "row": "A2",
                "data": f"brain MRI slices 176 x 208 at 44 x 52, {counts['train']} / {counts['val']} / {counts['test']}, no subject ids",
                "metric": "accuracy of 4 classes, INFLATED: slices of one head on both sides of the split",
                "default": "cnn",
                "headline": False,
                "families": {"cnn": {k: accuracy[k] for k in ("value", "low", "high", "n")}},
                "baseline": baseline,
                "chance": max(figures["counts"]["classes"].values()) / figures["counts"]["answered"],
                "macro_auc": figures["metrics"]["macro_auc"]["value"],
                "warning": found["seen"] if found else "NOT RAISED",
                "report_carries_it": bool(found) and found["says"] in page,
                "verdict": figures["verdict"],
                "notes": [
                    "the score is inflated and never a headline: it stands here to show that the warning comes by itself",
                    f"other checks that warned: {', '.join(sorted(set(warned) - {'siblings_across'})) or 'none'}",
                ],
            }
        )
    )


def _steps(spec: DiseaseSpec, folder: Path, out: Path) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    """Figures, the checks of validate, and the report's page."""
    from components.evaluate.step import evaluate
    from components.ingest.step import ingest
    from components.train.step import train
    from components.validate.step import validate

    dataset, features, model, validation, evaluation = (out / n for n in ("dataset", "features", "model", "validation", "evaluation"))
    ingest(spec, str(folder), dataset=dataset, features=features)
    validate(spec, dataset=dataset, out=validation)
    train(spec, family=spec.default_family, seed=SEED, dataset=dataset, features=features, model=model)
    figures = evaluate(spec, dataset=dataset, features=features, model=model, validation=validation, out=evaluation)
    checks = json.loads((validation / "validation.json").read_text(encoding="utf-8"))["checks"]
    return figures, checks, (evaluation / "report.html").read_text(encoding="utf-8")


def _baselines(data: Dataset) -> dict[str, float]:
    """Accuracy of the nearest neighbour and of a ridge classifier, train and val together, on the published test slices."""
    from sklearn.linear_model import RidgeClassifier

    x = data.read(np.arange(len(data))).reshape(len(data), -1).astype(np.float32)
    x -= x.mean(axis=1, keepdims=True)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    y = data.manifest["label"].to_numpy(np.int64)
    test = (data.manifest["split"] == "test").to_numpy()
    nearest: NDArray[np.int64] = (x[test] @ x[~test].T).argmax(axis=1)
    line = RidgeClassifier(alpha=1.0).fit(x[~test], y[~test])
    return {"1-NN": round(float((y[~test][nearest] == y[test]).mean()), 4), "linear": round(float((line.predict(x[test]) == y[test]).mean()), 4)}
