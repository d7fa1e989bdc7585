"""Row L1 on real CT: is a LUNA16 candidate patch a nodule? CNN, DBN, SDAE and SVM side by side, as Sun et al. 2016 did, on the given split.

    python -m tests.real.lung_candidate [seconds of CNN training]

Each family of `lung-candidate` is fitted once by its own contract on the train split, keeps its best epoch on the validation split, and is
judged once on the test split. The CNN's epochs are what fits into its seconds (its spec asks for 60, about 6 minutes on two cores); the others
run as their spec says. Baseline: a random forest on the pixels, trained on the same split.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import models
from components.core.metrics import auc_interval
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec
from pipelines import catalog

ROOT = Path(__file__).parents[2]
FAMILIES = ("cnn", "dbn", "sdae", "svm")
CNN_S = 60.0
SEED = 0


def main(cnn_seconds: float = CNN_S) -> None:
    """Print the row's JSON on the last line."""
    began = time.monotonic()
    spec = catalog.load("lung-candidate")
    folder = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data") / "lung-nodule-luna16"
    splits, odd = load(folder, spec)
    test = splits["test"]
    images = test.batch(np.arange(len(test)))
    families: dict[str, dict[str, Any]] = {}
    notes = [f"{odd} file of another size left out"] if odd else []
    for name in FAMILIES:
        if name not in spec.families:
            notes.append(f"no family {name}")
            continue
        started = time.monotonic()
        epochs = _epochs(spec, name, splits, cnn_seconds) if name == "cnn" else spec.families[name].epochs
        estimator, val = fitted(spec, name, splits, epochs=epochs)
        scores = estimator.scores(images) @ np.array([-1, 1], dtype=np.float32)
        families[name] = auc_interval(test.labels, scores).to_dict() | {
            "val_auc": round(val, 4), "epochs": epochs, "parameters": estimator.n_parameters, "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
        print(f"{name}: {families[name]}", file=sys.stderr, flush=True)
    result = {
        "row": "L1 lung-candidate",
        "data": f"LUNA16 candidate patches 50x50 (real CT), given split: {', '.join(f'{k} {len(v)}' for k, v in splits.items())}",
        "metric": "AUC nodule against non-nodule",
        "default": spec.default_family,
        "families": families,
        "baseline": {"random forest on pixels": forest(splits)},
        "chance": 0.5,
        "seconds": round(time.monotonic() - began, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "notes": [
            *notes,
            "no patient ids: neighbouring candidates may come from one scan, so intervals are too narrow",
            "nodule or not, not malignancy",
        ],
    }
    print(json.dumps(result))


def load(folder: Path, spec: DiseaseSpec) -> tuple[dict[str, Samples], int]:
    """The given split, (n, 1, 50, 50) in [0, 1]; how many files had another size."""
    from PIL import Image

    from components.core.devices import normalise

    found: dict[str, list[NDArray[np.uint8]]] = {"train": [], "val": [], "test": []}
    labels: dict[str, list[int]] = {name: [] for name in found}
    odd = 0
    with open(folder / "labels.csv", newline="", encoding="utf-8") as handle:
        for row in csv.DictReader(handle):
            pixels = np.asarray(Image.open(folder / row["image"]).convert("L"))
            if pixels.shape != spec.input.shape[1:]:
                odd += 1
                continue
            found[row["split"]].append(pixels)
            labels[row["split"]].append(int(row["nodule"]))
    out = {}
    for name, arrays in found.items():
        x = normalise(np.stack(arrays)[:, None], spec, None, None)
        out[name] = samples(x, np.array(labels[name], dtype=np.int64))
    return out, odd


def samples(x: NDArray[np.float32], y: NDArray[np.int64]) -> Samples:
    return Samples(batch=lambda rows: x[rows], labels=y, groups=np.arange(len(y)).astype(object))


def fitted(spec: DiseaseSpec, name: str, splits: dict[str, Samples], *, epochs: int) -> tuple[Any, float]:
    """One family after training, and its best AUC on validation."""
    family = spec.families[name].model_copy(update={"epochs": epochs})
    spec = spec.model_copy(update={"families": {**spec.families, name: family}})
    estimator = models.build(spec, name)
    with tempfile.TemporaryDirectory() as scratch:
        history = estimator.fit(splits["train"], splits["val"], seed=SEED, checkpoint=Path(scratch) / "checkpoint", on_epoch=lambda _: None)
    return estimator, max(epoch["val_auc"] for epoch in history)


def _epochs(spec: DiseaseSpec, name: str, splits: dict[str, Samples], seconds: float) -> int:
    """As many epochs as fit, by the time of a tenth of one; at most what the spec asks."""
    part = np.arange(0, len(splits["train"]), 10)
    train = splits["train"]
    few = Samples(batch=lambda rows: train.batch(part[rows]), labels=train.labels[part], groups=train.groups[part])
    started = time.monotonic()
    fitted(spec, name, {"train": few, "val": few}, epochs=2)
    one = (time.monotonic() - started) / 2 * 10 / 1.1  # each of the two also scored as many samples as it trained on
    return int(np.clip(seconds / one, 3, spec.families[name].epochs))


def forest(splits: dict[str, Samples]) -> dict[str, Any]:
    """A random forest on the pixels."""
    from sklearn.ensemble import RandomForestClassifier

    train, test = splits["train"], splits["test"]
    flat = {name: s.batch(np.arange(len(s))).reshape(len(s), -1) for name, s in (("train", train), ("test", test))}
    made = RandomForestClassifier(300, min_samples_leaf=2, n_jobs=2, random_state=SEED).fit(flat["train"], train.labels)
    return auc_interval(test.labels, made.predict_proba(flat["test"])[:, 1]).to_dict()


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
