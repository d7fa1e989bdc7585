"""Is the slide phantom a fair test? Prints the table of docs/decisions/0140-lymph-slides-frozen.md.

    python -m tests.benchmarks.fairness_lymph_slides folder [seed ...]

AUC of single tiles on the test slides' whole grids; the folder keeps what was made. Not part of `make bench`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import Dataset
from components.core.devices import normalise
from components.core.features import tile_colour
from components.core.metrics import auc
from components.core.models import build
from components.core.models.samples import Samples
from components.core.phantoms.lymph_slides import PHANTOM_VERSION, generate
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from tests.benchmarks.drift.lodo import variant

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "breast-metastasis.toml"
SEEDS = (1, 2, 3)
UNSEEN_SEED, UNSEEN_SLIDES = 7, 30
SHUFFLES = 3
BOUNDS = {
    "hand features": (0.70, 0.90),
    "CNN": (0.85, 0.98),
    "hand features, labels shuffled": (0.45, 0.55),
    "CNN, labels shuffled": (0.45, 0.55),
    "cost of the unseen scanner, CNN": (0.05, 1.0),
}


class Collection:
    """One ingested collection: tiles in [0, 1], labels, groups, splits."""

    def __init__(self, spec: DiseaseSpec, folder: Path, **wanted: Any) -> None:
        with redirect_stdout(StringIO()):  # events
            generate(folder / "source", **wanted)
            if not (folder / "dataset" / "dataset.json").exists():
                ingest(spec, str(folder / "source"), dataset=folder / "dataset", features=folder / "features")
        data = Dataset(folder / "dataset", expect=spec)
        self.x = normalise(data.read(np.arange(len(data))), spec, None, None)
        self.y = data.manifest["label"].to_numpy(np.int64)
        self.groups = data.manifest["group_id"].to_numpy(object)
        self.split = {name: data.rows(name) for name in ("train", "val", "test")}
        self.features = tile_colour.features(self.x)


def main(folder: Path, seeds: tuple[int, ...]) -> None:
    spec = variant(DiseaseSpec.from_toml(SPEC), None, plain=True)  # how hard the phantom is, not what a method makes of it
    assert spec.phantom is not None
    os.environ.setdefault("DXFLOW_HOME", str(folder / "home"))
    os.environ.setdefault("DXFLOW_KEY", "synthetic-collections-only")
    print(f"phantom version {PHANTOM_VERSION}", flush=True)
    unseen = Collection(spec, folder / "unseen", patients=UNSEEN_SLIDES, seed=UNSEEN_SEED, unseen=True)
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)
        print(f"  {name}: {value:.3f}", flush=True)

    for seed in seeds:
        c = Collection(spec, folder / str(seed), patients=spec.phantom.patients, seed=seed)
        test = c.split["test"]
        print(f"seed {seed}: " + ", ".join(f"{name} {len(rows)} ({int(c.y[rows].sum())} tumour)" for name, rows in c.split.items()), flush=True)
        forest = hand(c, c.y, seed)
        note("hand features", float(auc(c.y[test], forest(c.features[test]))))
        note("hand features, unseen scanner", float(auc(unseen.y, forest(unseen.features))))
        cnn = network(spec, c, c.y, seed)
        note("CNN", float(auc(c.y[test], cnn(c.x[test]))))
        note("CNN, unseen scanner", float(auc(unseen.y, cnn(unseen.x))))
        note("cost of the unseen scanner, CNN", figures["CNN"][-1] - figures["CNN, unseen scanner"][-1])
        for n in range(SHUFFLES):
            shuffled = np.random.default_rng([seed, n]).permutation(c.y)
            note("hand features, labels shuffled", float(auc(shuffled[test], hand(c, shuffled, seed)(c.features[test]))))
            if n == 0:
                note("CNN, labels shuffled", float(auc(shuffled[test], network(spec, c, shuffled, seed)(c.x[test]))))
    print("\n| figure | mean | sd | lowest | highest | n | bound | holds |\n|---|---|---|---|---|---|---|---|")
    for name, values in figures.items():
        low, high = BOUNDS.get(name, (-np.inf, np.inf))
        bound = f"{low:g} to {high:g}" if name in BOUNDS else ""
        holds = ("yes" if low <= np.mean(values) <= high else "NO") if name in BOUNDS else ""
        spread = f"{np.std(values):.3f} | {min(values):.3f} | {max(values):.3f} | {len(values)}"
        print(f"| {name} | {np.mean(values):.3f} | {spread} | {bound} | {holds} |")


def hand(c: Collection, labels: NDArray[np.int64], seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    rows = c.split["train"]
    forest = RandomForestClassifier(200, min_samples_leaf=3, class_weight="balanced", random_state=seed).fit(c.features[rows], labels[rows])
    return lambda values: forest.predict_proba(values)[:, 1]


def network(spec: DiseaseSpec, c: Collection, labels: NDArray[np.int64], seed: int) -> Any:
    def part(name: str) -> Samples:
        rows = c.split[name]
        return Samples(batch=lambda chosen: c.x[rows[chosen]], labels=labels[rows], groups=c.groups[rows])

    estimator = build(spec)
    with tempfile.TemporaryDirectory() as scratch:
        estimator.fit(part("train"), part("val"), seed=seed, checkpoint=Path(scratch) / "checkpoint", on_epoch=lambda _: None)
    return lambda values: estimator.scores(values) @ np.array([-1, 1], dtype=np.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])) or SEEDS)
