"""Is the chest phantom a fair test? Prints the table of docs/decisions/0010-phantom-frozen.md.

    python -m tests.benchmarks.phantom_fairness [folder]

Several collections with seeds of their own go through the platform's own generator, ingest and families; the folder keeps what was made, so a
second run is quick. Not part of `make bench`: it takes minutes, and what it measures does not change while the phantom is frozen.
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
from components.core.devices import DeviceProfile, ProfileAccumulator, normalise, pooled
from components.core.metrics import auc
from components.core.models import build
from components.core.models.samples import Samples
from components.core.phantoms.chest_ct import PHANTOM_VERSION, generate
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"
SEEDS = (20161, 20162, 20163, 20164, 20165)
UNSEEN_SEED, UNSEEN_PATIENTS = 7, 160
SHUFFLES = 4
CNN = {"epochs": 40, "batch": 32, "lr": 3e-3, "options": {"batch_norm": True, "schedule": "onecycle"}}
BOUNDS = {
    "hand features, device": (0.70, 0.90),
    "CNN, device": (0.85, 0.98),
    "hand features, labels shuffled": (0.45, 0.55),
    "CNN, labels shuffled": (0.45, 0.55),
    "cost of the unseen scanner, CNN, range": (0.05, 1.0),
    "share of that cost recovered by its profile": (0.5, 1.5),
}
Floats = NDArray[np.float32]


class Collection:
    """One ingested collection: samples in HU, labels, groups, devices, splits."""

    def __init__(self, spec: DiseaseSpec, folder: Path, **wanted: Any) -> None:
        with redirect_stdout(StringIO()):  # events
            generate(folder / "source", **wanted)
            if not (folder / "dataset" / "dataset.json").exists():
                ingest(spec, str(folder / "source"), dataset=folder / "dataset", features=folder / "features")
        data = Dataset(folder / "dataset", expect=spec)
        m = data.manifest
        self.x = data.read(np.arange(len(data)))
        self.y = m["label"].to_numpy(np.int64)
        self.groups = m["group_id"].to_numpy(object)
        self.devices = [f"{d}/{s}" for d, s in zip(m["device_key"], m["software"], strict=True)]
        self.split = {name: np.flatnonzero(m["split"] == name) for name in ("train", "val", "test")}

    def profiles(self, spec: DiseaseSpec, rows: NDArray[np.int64]) -> dict[str, DeviceProfile]:
        """One profile for each device, measured on `rows`."""
        found: dict[str, ProfileAccumulator] = {}
        for row in rows:
            found.setdefault(self.devices[row], ProfileAccumulator(spec)).add(self.x[row : row + 1])
        return {name: accumulator.finish(name, "") for name, accumulator in found.items()}


def main(folder: Path) -> None:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["families"]["cnn"].update(CNN)
    spec = DiseaseSpec.from_json(json.dumps(raw))
    plain = DiseaseSpec.from_json(json.dumps(raw | {"normalise": raw["normalise"] | {"method": "range"}}))
    assert spec.phantom is not None
    os.environ.setdefault("DXFLOW_HOME", str(folder / "home"))
    os.environ.setdefault("DXFLOW_KEY", "synthetic-collections-only")
    unseen = Collection(spec, folder / "unseen", patients=UNSEEN_PATIENTS, seed=UNSEEN_SEED, unseen=True)
    everywhere = np.arange(len(unseen.y))
    (foreign,) = unseen.profiles(spec, everywhere).values()
    figures: dict[str, list[float]] = {}
    print(f"phantom version {PHANTOM_VERSION}; unseen scanner: {len(unseen.y)} nodules, {int(unseen.y.sum())} malignant", flush=True)

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    for seed in SEEDS:
        c = Collection(spec, folder / str(seed), patients=spec.phantom.patients, seed=seed)
        known = np.concatenate([c.split["train"], c.split["val"]])
        profiles = c.profiles(spec, known)
        reference = pooled(profiles.values())
        device = normalise(c.x, spec, [profiles.get(name) for name in c.devices], reference)
        simple = normalise(c.x, plain, None, None)
        sizes = " ".join(f"{name} {len(rows)}" for name, rows in c.split.items())
        print(f"seed {seed}: {len(c.y)} nodules, {int(c.y.sum())} malignant ({sizes})", flush=True)

        svm = fitted(spec, "svm", c, device, c.y, seed)
        note("hand features, device", judged(svm, device, c.y, c.split["test"]))
        note("hand features, device, unseen scanner", judged(svm, normalise(unseen.x, spec, foreign, reference), unseen.y, everywhere))
        cnn = fitted(spec, "cnn", c, device, c.y, seed)
        seen = judged(cnn, device, c.y, c.split["test"])
        note("CNN, device", seen)
        with_profile = judged(cnn, normalise(unseen.x, spec, foreign, reference), unseen.y, everywhere)
        note("CNN, device, unseen scanner with its profile", with_profile)
        note("CNN, device, unseen scanner without a profile", judged(cnn, normalise(unseen.x, spec, None, reference), unseen.y, everywhere))
        cnn = fitted(plain, "cnn", c, simple, c.y, seed)
        note("CNN, range", judged(cnn, simple, c.y, c.split["test"]))
        note("CNN, range, unseen scanner", judged(cnn, normalise(unseen.x, plain, None, None), unseen.y, everywhere))
        note("cost of the unseen scanner, CNN, range", figures["CNN, range"][-1] - figures["CNN, range, unseen scanner"][-1])
        for n in range(SHUFFLES):
            shuffled = np.random.default_rng([seed, n]).permutation(c.y)
            note("hand features, labels shuffled", judged(fitted(spec, "svm", c, device, shuffled, seed), device, shuffled, c.split["test"]))
            if n < SHUFFLES // 2:
                note("CNN, labels shuffled", judged(fitted(spec, "cnn", c, device, shuffled, seed), device, shuffled, c.split["test"]))
    mean = {name: float(np.mean(values)) for name, values in figures.items()}
    lost = mean["CNN, range, unseen scanner"]
    note("share of that cost recovered by its profile", (mean["CNN, device, unseen scanner with its profile"] - lost) / (mean["CNN, range"] - lost))
    print("\n| figure | mean | sd | lowest | highest | n | bound | holds |\n|---|---|---|---|---|---|---|---|")
    for name, values in figures.items():
        low, high = BOUNDS.get(name, (-np.inf, np.inf))
        bound = f"{low:g} to {high:g}" if name in BOUNDS else ""
        holds = ("yes" if low <= np.mean(values) <= high else "NO") if name in BOUNDS else ""
        print(
            f"| {name} | {np.mean(values):.3f} | {np.std(values):.3f} | {min(values):.3f} | {max(values):.3f} | {len(values)} | {bound} | {holds} |"
        )


def fitted(spec: DiseaseSpec, family: str, c: Collection, x: Floats, labels: NDArray[np.int64], seed: int) -> Callable[[Floats], Floats]:
    """Train on the collection's train split, choose on its val split; (n, ...) in [0, 1] -> (n,) scores."""

    def part(name: str) -> Samples:
        rows = c.split[name]
        return Samples(batch=lambda chosen: x[rows[chosen]], labels=labels[rows], groups=c.groups[rows])

    estimator = build(spec, family)
    with tempfile.TemporaryDirectory() as scratch:
        estimator.fit(part("train"), part("val"), seed=seed, checkpoint=Path(scratch) / "checkpoint", on_epoch=lambda _: None)
    against = np.array([1, -1] if spec.positive_index == 0 else [-1, 1], dtype=np.float32)
    return lambda values: estimator.scores(values) @ against


def judged(score: Callable[[Floats], Floats], x: Floats, labels: NDArray[np.int64], rows: NDArray[np.int64]) -> float:
    """Area under the ROC curve of `rows`."""
    return float(auc(labels[rows], score(x[rows])))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
