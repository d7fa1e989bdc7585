"""RetinaMNIST, official split, five seeds: mean weighted kappa and any-retinopathy AUC against a plain small CNN trained in the same run.

The answer of a seed is the mean probability of `MEMBERS` trainings of the spec's default family. The grade is the one next to the expected
grade, which costs least under squared distance; no threshold is fitted. The plain network answers with its most probable grade, as usual, and
is also shown with the expected grade, so that the rule's share of the gain is seen. Networks stop on the official validation images.
"""

from __future__ import annotations

import json
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import metrics
from components.core.spec import DiseaseSpec

ROOT = Path(__file__).parents[2]
SEEDS = (1, 2, 3, 4, 5)
MEMBERS = 1
REPLICATES = 2000
Floats = NDArray[np.float64]


def main() -> None:
    """Print one JSON object."""
    folder = Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data") / "retinopathy-retinamnist"
    spec = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "retinopathy-mnist.toml")
    with tempfile.TemporaryDirectory() as made:
        dataset = _ingested(spec, folder, Path(made))
        jobs = [(str(dataset), "residual", 100 * seed + m) for seed in SEEDS for m in range(MEMBERS)]
        jobs += [(str(dataset), "plain", 100 * seed) for seed in SEEDS]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            answers = list(pool.map(_trained, jobs))
    y = answers[0][1]
    ours = np.stack([np.mean([p for p, _ in answers[MEMBERS * i : MEMBERS * (i + 1)]], axis=0) for i in range(len(SEEDS))])
    single = np.stack([answers[MEMBERS * i][0] for i in range(len(SEEDS))])
    plain = np.stack([p for p, _ in answers[MEMBERS * len(SEEDS) :]])

    expected, likeliest = _expected(ours), plain.argmax(2)
    kappa = {"residual": _kappas(y, expected), "plain": _kappas(y, likeliest)}
    any_ = {"residual": _aucs(y, ours), "plain": _aucs(y, plain)}
    rng = np.random.default_rng(20161)
    draws = [rng.integers(0, len(y), len(y)) for _ in range(REPLICATES)]
    spread = {
        "residual": [_kappas(y[d], expected[:, d]).mean() for d in draws],
        "plain": [_kappas(y[d], likeliest[:, d]).mean() for d in draws],
        "residual auc": [_aucs(y[d], ours[:, d]).mean() for d in draws],
        "plain auc": [_aucs(y[d], plain[:, d]).mean() for d in draws],
    }
    figure = lambda value, values: {"value": round(float(value), 4), **_ends(values), "n": len(y)}
    pairs = {"": ("residual", "plain"), " auc": ("residual auc", "plain auc")}
    paired = {name: np.subtract(spread[a], spread[b]) for name, (a, b) in pairs.items()}
    print(
        json.dumps(
            {
                "row": "R2",
                "data": "RetinaMNIST, 1,080 / 120 / 400 fundus photographs of 28 x 28 pixels, official split, no patient ids",
                "metric": f"weighted kappa, mean of {len(SEEDS)} seeds",
                "default": "residual",
                "families": {
                    "residual": figure(kappa["residual"].mean(), spread["residual"]),
                    "plain": figure(kappa["plain"].mean(), spread["plain"]),
                },
                "baseline": {"plain": figure(kappa["plain"].mean(), spread["plain"])},
                "paired": figure(kappa["residual"].mean() - kappa["plain"].mean(), paired[""]),
                "chance": 0.0,
                "any_retinopathy_auc": {
                    "residual": figure(any_["residual"].mean(), spread["residual auc"]),
                    "plain": figure(any_["plain"].mean(), spread["plain auc"]),
                    "paired": figure(any_["residual"].mean() - any_["plain"].mean(), paired[" auc"]),
                },
                "by_seed": {name: {"kappa": kappa[name].round(3).tolist(), "auc": any_[name].round(3).tolist()} for name in kappa},
                "notes": [
                    f"residual: mean of {MEMBERS} trainings a seed, grade next to the expected one; plain: one training, most probable grade",
                    f"one training of residual alone: kappa {_kappas(y, _expected(single)).mean():.3f}, AUC {_aucs(y, single).mean():.3f}; "
                    f"plain with the expected grade: kappa {_kappas(y, _expected(plain)).mean():.3f}",
                    "intervals resample the 400 test photographs; photographs of one person may be among them, so they are too narrow",
                ],
            }
        )
    )


def _ingested(spec: DiseaseSpec, source: Path, made: Path) -> Path:
    from contextlib import redirect_stdout
    from io import StringIO

    from components.ingest.step import ingest

    os.environ.setdefault("DXFLOW_HOME", str(made / "home"))
    os.environ.setdefault("DXFLOW_KEY", "public-data-only")
    with redirect_stdout(StringIO()):
        ingest(spec, str(source), dataset=made / "dataset", features=made / "features", workers=1)
    return made / "dataset"


def _trained(job: tuple[str, str, int]) -> tuple[Floats, NDArray[np.int64]]:
    """(n, 5) probabilities of the test split by one training, and its grades."""
    import torch

    from components.core.models import build
    from feature_store.training import load_split

    torch.set_num_threads(1)
    dataset, family, seed = job
    spec = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "retinopathy-mnist.toml")
    train, val, test = (load_split(spec, Path(dataset), Path(dataset), split).samples for split in ("train", "val", "test"))
    estimator = build(spec, family)
    with tempfile.TemporaryDirectory() as scratch:
        estimator.fit(train, val, seed=seed, checkpoint=Path(scratch) / "checkpoint", on_epoch=lambda _: None)
    scores = estimator.scores(test.all()).astype(np.float64)
    p = np.exp(scores - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True), np.asarray(test.labels, dtype=np.int64)


def _expected(p: Floats) -> NDArray[np.int64]:
    """(..., 5) -> the grade next to the expected one."""
    return np.rint(p @ np.arange(p.shape[-1])).astype(np.int64)


def _kappas(y: NDArray[np.int64], decided: NDArray[np.int64]) -> Floats:
    """(seeds, n) -> quadratic weighted kappa of each seed."""
    out = []
    for d in decided:
        table = np.bincount(y * 5 + d, minlength=25).reshape(5, 5)
        cost = (np.arange(5)[:, None] - np.arange(5)) ** 2
        out.append(1 - (cost * table).sum() * len(y) / (cost * np.outer(table.sum(1), table.sum(0))).sum())
    return np.array(out)


def _aucs(y: NDArray[np.int64], p: Floats) -> Floats:
    return np.array([metrics.auc(y > 0, 1 - one[:, 0]) for one in p])


def _ends(values: Any) -> dict[str, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return {"low": round(float(low), 4), "high": round(float(high), 4)}


if __name__ == "__main__":
    main()
