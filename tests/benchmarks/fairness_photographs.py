"""Are the fundus and skin phantoms fair tests? Prints the tables of docs/decisions/0150-photograph-phantoms.md.

    python -m tests.benchmarks.fairness_photographs retinopathy-screening|skin-lesion [seed ...]

Collections with seeds of their own go through generator, ingest and the spec's default family; AUC is that of the positive class. For the
fundus phantom also: does the heat-map point at the drawn signs? Not part of `make bench`: what it measures does not change while the phantom is
frozen.
"""

from __future__ import annotations

import copy
import importlib
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
from components.core.log_odds import log_odds
from components.core.metrics import auc
from components.core.models import build
from components.core.models.family import Estimator
from components.core.models.samples import Samples
from components.core.phantoms import fundus_eye, generator
from components.core.phantoms.fundus_camera import KNOWN
from components.core.phantoms.photographs import resized
from components.core.spec import DiseaseSpec
from components.evaluate.heatmap import attribution
from components.ingest.step import ingest
from tests.benchmarks.drift.lodo import variant

DISEASES = Path(__file__).parents[2] / "pipelines" / "diseases"
FEATURES = {"retinopathy-screening": "fundus28", "skin-lesion": "lesion_abcd"}
SEEDS = (1, 2, 3)
UNSEEN_SEED, SHUFFLES = 7, 4
Floats = NDArray[np.float32]


class Collection:
    """One ingested collection: samples in [0, 1], labels, groups, splits."""

    def __init__(self, spec: DiseaseSpec, folder: Path, *, patients: int, seed: int, unseen: bool = False) -> None:
        assert spec.phantom is not None
        with redirect_stdout(StringIO()):  # events
            generator(spec.phantom.generator)(folder / "source", patients=patients, seed=seed, unseen=unseen)
            if unseen:  # its source has no external sets
                spec = spec.model_copy(update={"external": ()})
            ingest(spec, str(folder / "source"), dataset=folder / "dataset", features=folder / "features", workers=1)
        data = Dataset(folder / "dataset", expect=spec)
        m = data.manifest
        self.x: Floats = (data.read(np.arange(len(data))) / 255).astype(np.float32)
        self.y = m["label"].to_numpy(np.int64)
        self.groups = m["group_id"].to_numpy(object)
        self.rows = {name: np.flatnonzero(m["split"] == name) for name in m["split"].unique()}


def main(name: str, seeds: tuple[int, ...]) -> None:
    spec = variant(DiseaseSpec.from_toml(DISEASES / f"{name}.toml"), None, plain=True)  # how hard the phantom is, not what a method makes of it
    assert spec.phantom is not None
    features = importlib.import_module(f"components.core.features.{FEATURES[name]}").features
    figures: dict[str, list[float]] = {}

    def note(what: str, value: float) -> None:
        figures.setdefault(what, []).append(value)
        print(f"  {what}: {value:.3f}", flush=True)

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        os.environ.setdefault("DXFLOW_HOME", str(folder / "home"))
        os.environ.setdefault("DXFLOW_KEY", "synthetic-collections-only")
        unseen = Collection(spec, folder / "unseen", patients=spec.phantom.patients // 2, seed=UNSEEN_SEED, unseen=True)
        foreign = np.isin(unseen.y, spec.positive_indices)
        seen_by_hand = features(unseen.x)
        for seed in seeds:
            c = Collection(spec, folder / str(seed), patients=spec.phantom.patients, seed=seed)
            print(f"seed {seed}: " + ", ".join(f"{split} {len(rows)}" for split, rows in sorted(c.rows.items())), flush=True)
            positive, test = np.isin(c.y, spec.positive_indices), c.rows["test"]
            by_hand = features(c.x)
            for kind in ("svm", "forest"):
                score = classical(kind, by_hand, positive, c, seed)
                note(f"hand features, {kind}", auc(positive[test], score(by_hand[test])))
                note(f"hand features, {kind}, unseen device", auc(foreign, score(seen_by_hand)))
            for n in range(SHUFFLES):
                shuffled = np.random.default_rng([seed, n]).permutation(positive)
                note("hand features, svm, labels shuffled", auc(shuffled[test], classical("svm", by_hand, shuffled, c, seed)(by_hand[test])))
            estimator = fitted(spec, c, c.y, seed)
            network = lambda x, e=estimator: log_odds(e.scores(x), spec.positive_indices)
            own = auc(positive[test], network(c.x[test]))
            note("default family", own)
            for split in c.rows:
                if split.startswith("external"):
                    note(f"default family, {split}", auc(positive[c.rows[split]], network(c.x[c.rows[split]])))
            away = auc(foreign, network(unseen.x))
            note("default family, unseen device", away)
            note("cost of the unseen device", own - away)
            if name.startswith("retinopathy"):
                for what, value in pointing(spec, estimator, seed).items():
                    note(what, value)
            if seed == seeds[0]:
                labels = np.random.default_rng(seed).permutation(c.y)
                mixed = fitted(spec, c, labels, seed)
                note(
                    "default family, labels shuffled",
                    auc(np.isin(labels, spec.positive_indices)[test], log_odds(mixed.scores(c.x[test]), spec.positive_indices)),
                )
    print("\n| figure | mean | lowest | highest | n |\n|---|---|---|---|---|")
    for what, values in figures.items():
        print(f"| {what} | {np.mean(values):.3f} | {min(values):.3f} | {max(values):.3f} | {len(values)} |")


def classical(kind: str, by_hand: Floats, positive: NDArray[np.bool_], c: Collection, seed: int) -> Callable[[Floats], Floats]:
    """A classifier on the train split; the machine's cost is chosen on validation."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    train, val = c.rows["train"], c.rows["val"]
    if kind == "forest":
        forest = RandomForestClassifier(300, min_samples_leaf=3, random_state=seed).fit(by_hand[train], positive[train])
        return lambda x: forest.predict_proba(x)[:, 1]
    tried = []
    for cost in (0.25, 1.0, 4.0):
        model = make_pipeline(StandardScaler(), SVC(C=cost, class_weight="balanced")).fit(by_hand[train], positive[train])
        tried.append((auc(positive[val], model.decision_function(by_hand[val])), -cost, model))
    best = max(tried, key=lambda t: t[:2])[2]
    return best.decision_function


def fitted(spec: DiseaseSpec, c: Collection, labels: NDArray[np.int64], seed: int) -> Estimator:
    def part(name: str) -> Samples:
        rows = c.rows[name]
        return Samples(batch=lambda chosen: c.x[rows[chosen]], labels=labels[rows], groups=c.groups[rows])

    estimator = build(spec)
    with tempfile.TemporaryDirectory() as scratch:
        estimator.fit(part("train"), part("val"), seed=seed, checkpoint=Path(scratch) / "checkpoint", on_epoch=lambda _: None)
    return estimator


def pointing(spec: DiseaseSpec, estimator: Estimator, seed: int, *, eyes: int = 60) -> dict[str, float]:
    """Share of eyes whose map peaks within a pixel of a drawn sign, and the share of the field that this area is; eyes nobody trained on."""
    from scipy.ndimage import binary_dilation

    side = spec.input.shape[-1]
    images, signs = [], []
    for number in range(eyes):
        rng = np.random.default_rng([99, seed, number])
        scene, mask = fundus_eye.eye(rng, 2 + number % 3, left=bool(number % 2))
        camera = KNOWN[number % len(KNOWN)]
        same_hand = copy.deepcopy(rng)
        images.append(_decoded(camera.photograph(scene, rng), side))
        signs.append(binary_dilation(resized(camera.framed(mask, same_hand), side) > 0.15, iterations=1))
    x = np.stack(images)
    maps = attribution(spec, estimator, x, spec.positive_indices)
    hits, areas = [], []
    for image, heat, mask in zip(x, maps, signs, strict=True):
        field = image.max(axis=0) > 0.08
        peak = np.unravel_index(np.where(field, heat, -1).argmax(), heat.shape)
        hits.append(bool(mask[peak]))
        areas.append((mask & field).sum() / field.sum())
    return {"heat-map's peak lies on a sign": float(np.mean(hits)), "chance of that": float(np.mean(areas))}


def _decoded(data: bytes, side: int) -> Floats:
    from io import BytesIO

    from PIL import Image

    image = np.asarray(Image.open(BytesIO(data)).convert("RGB"), dtype=np.float32) / 255
    return np.moveaxis(resized(image, side), 2, 0)


if __name__ == "__main__":
    arguments: Any = sys.argv[1:]
    main(arguments[0], tuple(int(seed) for seed in arguments[1:]) or SEEDS)
