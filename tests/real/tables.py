"""What the real tables share: stratified folds, samples of a table, a fit by the family's own contract."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import models
from components.core.devices import normalise
from components.core.metrics import auc_interval
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

Array = NDArray[Any]


def samples(spec: DiseaseSpec, x: Array, labels: Array, rows: Array) -> Samples:
    """Some rows of a table, brought to the model's input as ingest's are."""
    held = normalise(x[rows].astype(np.float32), spec, None, None)
    return Samples(batch=lambda chosen: held[chosen], labels=labels[rows].astype(np.int64), groups=rows.astype(object))


def folds(labels: Array, n: int, seed: int) -> Array:
    """(len(labels),) fold of each row: each class dealt out in turn, in random order."""
    draw, out = np.random.default_rng(seed), np.empty(len(labels), dtype=np.int64)
    for value in np.unique(labels):
        rows = draw.permutation(np.flatnonzero(labels == value))
        out[rows] = np.arange(len(rows)) % n
    return out


def score(spec: DiseaseSpec, family: str, x: Array, labels: Array, fit: Array, val: Array, test: Array, seed: int) -> Array:
    """Margin of the positive class on rows `test` after a fit on `fit`, with whatever the family chooses chosen on `val`."""
    estimator = models.build(spec, family)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        estimator.fit(samples(spec, x, labels, fit), samples(spec, x, labels, val), seed=seed, checkpoint=Path(folder) / "c", on_epoch=lambda _: None)
    scores = estimator.scores(samples(spec, x, labels, test).all())
    return scores[:, spec.positive_index] - scores[:, 1 - spec.positive_index]


def cross_validated(spec: DiseaseSpec, family: str, x: Array, labels: Array, n: int, seed: int) -> Array:
    """Out-of-fold margins. Of what is not tested, one fold of eight is the validation split."""
    outer, out = folds(labels, n, seed), np.empty(len(labels))
    for fold in range(n):
        rest = np.flatnonzero(outer != fold)
        inner = folds(labels[rest], 8, seed + 1000)
        out[outer == fold] = score(spec, family, x, labels, rest[inner > 0], rest[inner == 0], np.flatnonzero(outer == fold), seed)
    return out


def over_seeds(positive: Array, margins: list[Array]) -> dict[str, Any]:
    """Mean AUC of several seeds; the interval's ends are the means of each seed's own, so they speak of the samples, not of the seeds."""
    found = [auc_interval(positive, margin).to_dict() for margin in margins]
    figures = {key: round(float(np.mean([f[key] for f in found])), 4) for key in ("value", "low", "high")}
    return figures | {"n": found[0]["n"], "seeds": [round(f["value"], 4) for f in found]}


def finish(row: dict[str, Any], began: float) -> None:
    """Print the row with what it cost."""
    row |= {"seconds": round(time.monotonic() - began, 1), "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}
    print(json.dumps(row))
