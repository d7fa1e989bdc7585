"""Is the brain phantom a fair test? Prints the figures of docs/decisions/0130-brain-phantom.md.

    python -m tests.benchmarks.fairness_brain [seed ...]

Each seed's collection goes through the platform's generator, reader and folds; figures are of pooled out-of-fold answers, AUC of Alzheimer's
disease against the rest. The unseen scanner is answered by the mean of the folds' models. Not part of `make bench`: minutes.
"""

from __future__ import annotations

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
from components.core.features.volume import features
from components.core.metrics import auc
from components.core.models import build
from components.core.models.samples import Samples
from components.core.phantoms.brain_mr import PHANTOM_VERSION, generate
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "alzheimer-smri.toml"
SEEDS = (20163, 20164, 20165)
UNSEEN_SEED, UNSEEN = 7, 90
Floats = NDArray[np.float32]
Scorer = Callable[[Floats], NDArray[Any]]


def collection(spec: DiseaseSpec, folder: Path, **wanted: Any) -> tuple[Floats, Any]:
    """Samples in [0, 1] and their manifest."""
    with redirect_stdout(StringIO()):  # events
        generate(folder / "source", **wanted)
        ingest(spec, str(folder / "source"), dataset=folder / "dataset", features=folder / "features")
    data = Dataset(folder / "dataset")
    return normalise(data.read(np.arange(len(data))), spec, None, None), data.manifest


def forest(x: Floats, y: NDArray[np.int64], seed: int, **_: Any) -> Scorer:
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(300, min_samples_leaf=2, random_state=seed).fit(features(x), y)
    return lambda values: np.asarray(model.predict_proba(features(values)))[:, 2]


def network(family: str, spec: DiseaseSpec) -> Callable[..., Scorer]:
    """Trains a family of the spec; a sixth of the samples validates."""

    def fit(x: Floats, y: NDArray[np.int64], seed: int, *, pool: Floats) -> Scorer:
        order = np.random.default_rng(seed).permutation(len(y))
        val, train = order[: len(y) // 6], order[len(y) // 6 :]
        estimator = build(spec, family)
        with tempfile.TemporaryDirectory() as scratch, redirect_stdout(StringIO()):
            estimator.fit(
                _samples(x[train], y[train]), _samples(x[val], y[val]), seed=seed, checkpoint=Path(scratch) / "c", on_epoch=lambda _: None,
                unlabelled=_samples(pool, np.zeros(len(pool), np.int64)),
            )  # fmt: skip

        def score(values: Floats) -> NDArray[Any]:
            z = estimator.scores(values)
            return z[:, 2] - np.log(np.exp(z[:, :2] - z[:, :2].max(axis=1, keepdims=True)).sum(axis=1)) - z[:, :2].max(axis=1)

        return score

    return fit


def _samples(x: Floats, y: NDArray[np.int64]) -> Samples:
    return Samples(batch=lambda rows: x[rows], labels=y, groups=np.arange(len(y)).astype(object))


def folded(fit: Callable[..., Scorer], x: Floats, y: NDArray[np.int64], fold: NDArray[np.int64], seed: int, pool: Floats, other: Floats):
    """Pooled out-of-fold scores, and the mean over folds of what the models say of `other`. Scores are ranked within a fold."""
    own, foreign = np.zeros(len(y)), np.zeros(len(other))
    for k in np.unique(fold):
        score = fit(x[fold != k], y[fold != k], seed, pool=pool)
        own[fold == k] = score(x[fold == k])
        foreign += score(other)
    return own, foreign


def main(seeds: tuple[int, ...]) -> None:
    spec = DiseaseSpec.from_toml(SPEC)
    assert spec.phantom is not None
    with tempfile.TemporaryDirectory() as made:
        os.environ["DXFLOW_HOME"] = made
        os.environ.setdefault("DXFLOW_KEY", "synthetic-collections-only")
        other, rows = collection(spec, Path(made) / "unseen", patients=UNSEEN, seed=UNSEEN_SEED, unseen=True)
        truth = rows["label"].to_numpy() == 2
        print(f"phantom version {PHANTOM_VERSION}; unseen scanner: {len(truth)} persons", flush=True)
        for seed in seeds:
            x, rows = collection(spec, Path(made) / str(seed), patients=spec.phantom.patients, seed=seed)
            pool = x[rows["split"].str.startswith("pretrain").to_numpy()]
            main_rows = rows["fold"].notna().to_numpy()
            x, y, fold = x[main_rows], rows["label"][main_rows].to_numpy(np.int64), rows["fold"][main_rows].to_numpy(np.int64)
            shuffled = np.random.default_rng(seed).permutation(y)
            for name, fit in {"forest": forest, **{f: network(f, spec) for f in ("cae", "cnn")}}.items():
                own, foreign = folded(fit, x, y, fold, seed, pool, other)
                line = f"seed {seed} {name}: AUC {auc(y == 2, own):.3f}, unseen scanner {auc(truth, foreign):.3f}"
                if name != "cnn":
                    own, _ = folded(fit, x, shuffled, fold, seed, pool, other[:2])
                    line += f", labels shuffled {auc(shuffled == 2, own):.3f}"
                print(line, flush=True)


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or SEEDS)
