"""Is the phantom of worn sensors a fair test? Prints the table of docs/decisions/0120-inertial-phantom.md.

    python -m tests.benchmarks.fairness_inertial [folder]

Collections with seeds of their own go through the platform's own generator, ingest and families. Everything is judged on subjects that the model
did not see: four folds, the mean of the folds' areas.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import Dataset
from components.core.devices import normalise
from components.core.features import gait
from components.core.metrics import auc
from components.core.models import build
from components.core.models.samples import Samples
from components.core.phantoms.inertial import PHANTOM_VERSION, generate
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "parkinson-fog.toml"
SEEDS = (20171, 20172, 20173)
PATIENTS, UNSEEN_SEED, UNSEEN_PATIENTS, FOLDS = 12, 7, 12, 4
BOUNDS = {
    "gait features, forest": (0.70, 0.90),
    "CNN": (0.85, 0.98),
    "gait features, forest, labels shuffled": (0.45, 0.55),
    "CNN, labels shuffled": (0.45, 0.55),
    "cost of the unseen unit, CNN": (0.05, 1.0),
}
Floats = NDArray[np.float32]
Scorer = Callable[[Floats], NDArray[Any]]


class Collection:
    """One ingested collection in the model's input scale, with its folds by subject."""

    def __init__(self, spec: DiseaseSpec, folder: Path, **wanted: Any) -> None:
        with redirect_stdout(StringIO()):  # events
            generate(folder / "source", **wanted)
            if not (folder / "dataset" / "dataset.json").exists():
                ingest(spec, str(folder / "source"), dataset=folder / "dataset", features=folder / "features", workers=1)
        data = Dataset(folder / "dataset", expect=spec)
        self.x = normalise(data.read(np.arange(len(data))), spec, None, None)
        self.y = data.manifest["label"].to_numpy(np.int64)
        self.groups = data.manifest["group_id"].to_numpy(object)
        devices = data.manifest.groupby("group_id")["device_key"].first()
        self.fold = {g: n % FOLDS for n, g in enumerate(devices.sort_values(kind="stable").index)}

    def rows(self, fold: int) -> dict[str, NDArray[np.int64]]:
        """Test: the fold; validation: the next one; train: the others."""
        of = np.array([(self.fold[g] - fold) % FOLDS for g in self.groups])
        return {"test": np.flatnonzero(of == 0), "val": np.flatnonzero(of == 1), "train": np.flatnonzero(of > 1)}


def forest(c: Collection, labels: NDArray[np.int64], rows: dict[str, NDArray[np.int64]], seed: int) -> Scorer:
    from sklearn.ensemble import RandomForestClassifier

    both = np.concatenate([rows["train"], rows["val"]])
    model = RandomForestClassifier(200, min_samples_leaf=3, class_weight="balanced", random_state=seed).fit(gait.features(c.x[both]), labels[both])
    return lambda x: model.predict_proba(gait.features(x))[:, 1]


def network(spec: DiseaseSpec, c: Collection, labels: NDArray[np.int64], rows: dict[str, NDArray[np.int64]], seed: int) -> Scorer:
    def part(name: str) -> Samples:
        own = rows[name]
        return Samples(batch=lambda chosen: c.x[own[chosen]], labels=labels[own], groups=c.groups[own])

    estimator = build(spec)
    with tempfile.TemporaryDirectory() as scratch:
        estimator.fit(part("train"), part("val"), seed=seed, checkpoint=Path(scratch) / "checkpoint", on_epoch=lambda _: None)
    return lambda x: estimator.scores(x) @ np.array([-1, 1], dtype=np.float32)


def main(folder: Path) -> None:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["split"]["folds"] = 1  # the folds here are this file's own
    spec = DiseaseSpec.from_json(json.dumps(raw))
    os.environ.setdefault("DXFLOW_HOME", str(folder / "home"))
    os.environ.setdefault("DXFLOW_KEY", "synthetic-collections-only")
    unseen = Collection(spec, folder / "unseen", patients=UNSEEN_PATIENTS, seed=UNSEEN_SEED, unseen=True)
    figures: dict[str, list[float]] = {}

    def note(name: str, labels: NDArray[np.int64], scores: NDArray[Any]) -> float:
        figures.setdefault(name, []).append(float(auc(labels, scores)))
        return figures[name][-1]

    for seed in SEEDS:
        c = Collection(spec, folder / str(seed), patients=PATIENTS, seed=seed)
        print(f"version {PHANTOM_VERSION}, seed {seed}: {len(c.y)} windows, {int(c.y.sum())} of freezing, {len(set(c.groups))} subjects", flush=True)
        draw = np.random.default_rng(seed)
        for fold in range(FOLDS):
            rows = c.rows(fold)
            test, shuffled = rows["test"], draw.permutation(c.y)
            note("gait features, forest", c.y[test], forest(c, c.y, rows, seed)(c.x[test]))
            note("gait features, forest, labels shuffled", shuffled[test], forest(c, shuffled, rows, seed)(c.x[test]))
            scorer = network(spec, c, c.y, rows, seed)
            seen = note("CNN", c.y[test], scorer(c.x[test]))
            figures.setdefault("cost of the unseen unit, CNN", []).append(seen - note("CNN, unseen unit", unseen.y, scorer(unseen.x)))
            note("CNN, labels shuffled", shuffled[test], network(spec, c, shuffled, rows, seed)(c.x[test]))
    print("\n| figure | mean | sd | lowest | highest | n | bound | holds |\n|---|---|---|---|---|---|---|---|")
    for name, values in figures.items():
        low, high = BOUNDS.get(name, (-np.inf, np.inf))
        bound = f"{low:g} to {high:g}" if name in BOUNDS else ""
        holds = ("yes" if low <= np.mean(values) <= high else "NO") if name in BOUNDS else ""
        print(
            f"| {name} | {np.mean(values):.3f} | {np.std(values):.3f} | {min(values):.3f} | {max(values):.3f} | {len(values)} | {bound} | {holds} |"
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
