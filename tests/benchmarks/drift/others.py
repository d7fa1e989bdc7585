"""What others would have said of the same windows: plain KS, a domain classifier, Evidently's default preset."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tests.benchmarks.drift.world import FEATURES, NAMES, REFERENCE, Site

CASES = ((300, 0.3), (100, 0.5))
TRIES = 60
EVIDENTLY_TRIES = 12
Floats = NDArray[np.float64]


def plain_ks(reference: Floats, window: Floats) -> bool:
    """Any of the features with p below .05."""
    found: list[Any] = [stats.ks_2samp(a, b) for a, b in zip(reference.T, window.T, strict=True)]
    return any(one.pvalue < 0.05 for one in found)


def domain_classifier(reference: Floats, window: Floats) -> bool:
    """Can a forest tell the window from the reference better than .55 (out-of-fold AUC)?"""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict

    x = np.concatenate([reference, window])
    y = np.repeat([0, 1], [len(reference), len(window)])
    forest = RandomForestClassifier(60, min_samples_leaf=5, class_weight="balanced", random_state=0)
    p = np.asarray(cross_val_predict(forest, x, y, cv=3, method="predict_proba"))
    return float(roc_auc_score(y, p[:, 1])) > 0.55


def evidently_preset(reference: Floats, window: Floats) -> tuple[bool, bool]:
    """(any column drifted, the data set drifted: half of the columns) by `DataDriftPreset` as it comes."""
    os.environ["DO_NOT_TRACK"] = "1"
    import pandas as pd
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    definition = DataDefinition(numerical_columns=list(NAMES))
    sides = [Dataset.from_pandas(pd.DataFrame(x, columns=list(NAMES)), data_definition=definition) for x in (window, reference)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Report([DataDriftPreset()]).run(sides[0], sides[1]).dict()
    count = next(m["value"] for m in found["metrics"] if isinstance(m["value"], dict) and "count" in m["value"])
    return count["count"] > 0, count["share"] >= 0.5


def run() -> list[dict[str, Any]]:
    rows = []
    for n, shift in CASES:
        sites = [Site(200 + k) for k in range(3)]
        says: dict[str, list[list[bool]]] = {}
        for k in range(TRIES):
            site = sites[k % len(sites)]
            own = site.reference[:REFERENCE]
            for changed, which in ((None, 0), ((k % FEATURES, shift), 1)):
                x = site.window(n, changed=changed)["d0"]
                for name, method in (("KS at .05 for each feature, any", plain_ks), ("domain classifier, forest, AUC over .55", domain_classifier)):
                    says.setdefault(name, [[], []])[which].append(method(own, x))
                if k < EVIDENTLY_TRIES:
                    some, whole = evidently_preset(own, x)
                    says.setdefault("Evidently's preset, any column", [[], []])[which].append(some)
                    says.setdefault("Evidently's preset, half of the columns", [[], []])[which].append(whole)
        rows += [
            {
                "method": name,
                "events in a window": n,
                "shift": shift,
                "windows each": len(quiet),
                "false alarms": f"{np.mean(quiet):.3f}",
                "found": f"{np.mean(moved):.3f}",
            }
            for name, (quiet, moved) in says.items()
        ]
    return rows
