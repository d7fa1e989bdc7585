"""Two questions to real images: what losses for rare classes do to them, and what ensembles gain over their best member.

    python -m tests.benchmarks.losses_and_ensembles losses 3       HAM10000 at 8 x 8 pixels, seven diagnoses, 1 to 67 % of the images
    python -m tests.benchmarks.losses_and_ensembles ensembles 3    RetinaMNIST at 28 x 28 pixels, five grades, its own split

The second number counts seeds. Nothing is chosen on a test split. One JSON line for each fit, then means.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from components.core.models import build
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("DXFLOW_DATA", ROOT.parent / "shared" / "data"))
LOSSES = ("plain", "balanced", "effective", "focal")
PLAIN = {"schedule": "onecycle", "flips": True, "rotation": "quarter"}
Parts = dict[str, Samples]


def samples(x: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> Samples:
    return Samples(batch=lambda rows: x[rows], labels=labels.astype(np.int64), groups=groups.astype(object))


def ham10000() -> Parts:
    """Split by lesion: 70 % train, 10 % val, 20 % test, by a fixed draw."""
    table = np.loadtxt(DATA / "skin-ham10000" / "hmnist_8_8_L.csv", delimiter=",", skiprows=1)
    lines = (DATA / "skin-ham10000" / "HAM10000_metadata.csv").read_text().splitlines()
    column = lines[0].split(",").index("lesion_id")
    lesion = np.array([line.split(",")[column] for line in lines[1:]])
    names = np.unique(lesion)
    place = dict(zip(names.tolist(), np.random.default_rng(0).permutation(len(names)) / len(names), strict=True))
    at = np.array([place[name] for name in lesion])
    x = (table[:, :-1] / 255).astype(np.float32).reshape(-1, 1, 8, 8)
    chosen = {"train": at < 0.7, "val": (at >= 0.7) & (at < 0.8), "test": at >= 0.8}
    return {part: samples(x[rows], table[rows, -1], lesion[rows]) for part, rows in chosen.items()}


def retinamnist() -> Parts:
    with np.load(DATA / "retinopathy-retinamnist" / "retinamnist.npz", allow_pickle=False) as file:
        return {
            part: samples(
                np.ascontiguousarray(file[f"{part}_images"].transpose(0, 3, 1, 2)).astype(np.float32) / 255,
                file[f"{part}_labels"][:, 0],
                np.arange(len(file[f"{part}_labels"])),
            )
            for part in ("train", "val", "test")
        }


def spec_of(disease: str, families: dict[str, object]) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / f"{disease}.toml").to_json())
    return DiseaseSpec.from_json(json.dumps(raw | {"families": families, "default_family": next(iter(families)), "stages": []}))


def figures(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Accuracy, mean recall of the classes, mean AUC of each class against the rest, mean of minus log probability."""
    from sklearn.metrics import recall_score, roc_auc_score

    logits = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answer = scores.argmax(axis=1)
    return {
        "accuracy": float((answer == labels).mean()),
        "recall": float(recall_score(labels, answer, average="macro", zero_division=0)),
        "auc": float(np.mean([roc_auc_score(labels == k, p[:, k]) for k in range(p.shape[1])])),
        "log_loss": float(-np.log(np.maximum(p[np.arange(len(labels)), labels], 1e-12)).mean()),
    }


def measure(spec: DiseaseSpec, parts: Parts, seeds: int) -> None:
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for seed in range(seeds):
        for family in spec.families:
            estimator = build(spec, family)
            with tempfile.TemporaryDirectory() as folder:
                estimator.fit(parts["train"], parts["val"], seed=seed, checkpoint=Path(folder), on_epoch=lambda _: None)
            found[family].append(figures(parts["test"].labels, estimator.scores(parts["test"].all())))
            print(json.dumps({"family": family, "seed": seed} | {k: round(v, 4) for k, v in found[family][-1].items()}), flush=True)
    for family, rows in found.items():
        print(family, *(f"{name} {np.mean([row[name] for row in rows]):.3f}" for name in rows[0]))


def main(what: str, seeds: int) -> None:
    if what == "losses":
        own = {"kind": "small-cnn", "epochs": 10, "batch": 128, "lr": 5e-3, "weight_decay": 1e-2}
        families = {loss: own | {"options": PLAIN | {"maps": [16, 32], "loss": loss}} for loss in LOSSES}
        measure(spec_of("skin-ham10000", families), ham10000(), seeds)
        return
    own = {"kind": "small-cnn", "epochs": 15, "batch": 64, "lr": 5e-3, "weight_decay": 1e-2}
    families = {
        "plain": own | {"options": PLAIN | {"maps": [16, 32, 64]}},
        "residual": own | {"options": PLAIN | {"maps": [16, 32, 64], "residual": True}},
        "svm": {"kind": "features-svm"},
        "voting": {"kind": "soft-voting", "options": {"members": ["plain", "residual", "svm"]}},
        "stacking": {"kind": "stacking", "options": {"members": ["plain", "residual", "svm"]}},
    }
    measure(spec_of("retinopathy-mnist", families), retinamnist(), seeds)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
