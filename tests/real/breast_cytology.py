"""Breast cytology (Wisconsin, 569 real aspirates): deep belief network against support vector machine and forest, nested cross-validation.

    python -m tests.real.breast_cytology [seeds]

Ten outer folds, five seeds, each with folds of its own. Epochs, costs, widths and leaves are chosen on a validation eighth inside the
training folds; nothing is chosen on an outer fold.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from components.core.metrics import paired_auc_difference
from pipelines import catalog
from tests.real.tables import cross_validated, finish, over_seeds

FAMILIES = ("dbn", "sdae", "svm", "forest")
SEEDS = 5


def main(seeds: int = SEEDS) -> None:
    """Print the row's JSON on the last line."""
    from sklearn.datasets import load_breast_cancer

    began = time.monotonic()
    spec = catalog.load("breast-cytology")
    table: Any = load_breast_cancer()
    x, labels = np.asarray(table.data), np.asarray(table.target)
    positive = labels == spec.positive_index
    margins = {name: [cross_validated(spec, name, x, labels, 10, seed) for seed in range(seeds)] for name in FAMILIES}
    difference = paired_auc_difference(positive, margins["dbn"][0], margins["svm"][0]).to_dict()
    figures = {name: over_seeds(positive, found) for name, found in margins.items()}
    single = max(max(over_seeds(positive, [sign * x[:, n]])["value"] for sign in (1, -1)) for n in range(x.shape[1]))
    row = {
        "row": "breast-cytology",
        "data": f"Wisconsin fine-needle aspirates (real, shipped with scikit-learn), {len(x)} cases x {x.shape[1]} features",
        "metric": "AUC malignant against benign",
        "default": spec.default_family,
        "families": {name: figures[name] for name in ("dbn", "sdae")},
        "baseline": {name: figures[name] for name in ("svm", "forest")},
        "chance": 0.5,
        "notes": [
            f"ten outer folds, {seeds} seeds; all choices on a validation eighth inside the training folds",
            f"dbn - svm, first seed: {difference['value']:+.4f} ({difference['low']:+.4f} to {difference['high']:+.4f})",
            f"best single feature, chosen on all cases: {single:.4f}",
            "no patient ids: each case is taken as a patient of its own",
        ],
    }
    assert np.isfinite([figures[name]["value"] for name in FAMILIES]).all()
    finish(row, began)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
