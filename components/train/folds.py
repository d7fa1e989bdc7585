"""One fit and what is kept of it; and the fits of cross-validation, one after another, each kept the moment it ends."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from components.core import models
from components.core.atomic import atomic_dir, remove_partials
from components.core.devices import DeviceProfile
from components.core.models.family import Epoch, Estimator
from components.core.models.family_figures import best_epoch
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec
from components.core.step import Progress
from components.train import aggregate, hard_negatives

FIGURES = ("train_loss", "val_loss", "val_auc")


@dataclass(frozen=True)
class Task:
    """What every fit of one training shares."""

    spec: DiseaseSpec
    family: str
    seed: int
    dataset: Path
    features: Path


@dataclass(frozen=True)
class Fitted:
    """A trained estimator with its history, the profile its samples were brought to, and how many samples it saw."""

    estimator: Estimator
    history: list[Epoch]
    reference: DeviceProfile | None
    samples: dict[str, int]
    more: dict[str, Any] = field(default_factory=dict)
    aggregate: Callable[[Path], dict[str, Any]] | None = None

    def facts(self) -> dict[str, Any]:
        best = best_epoch(self.history)
        return {
            "epochs": len(self.history),
            "best_epoch": best["epoch"],
            "best": {name: best[name] for name in FIGURES if name in best},
            "samples": self.samples,
        } | self.more

    def write(self, folder: Path) -> str:
        """model.safetensors, history.json and, where devices are normalised, reference.json; what the aggregator keeps, where the spec has one.

        Returns:
            The SHA-256 of the weights.
        """
        self.estimator.save(folder)
        if self.aggregate is not None:
            self.aggregate(folder)
        write_json(folder / "history.json", [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in self.history])
        if self.reference is not None:
            write_json(folder / "reference.json", self.reference.to_dict())
        return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def fit(task: Task, estimator: Estimator, *, checkpoint: Path, fold: int | None = None, what: str) -> Fitted:
    """Train on the train and val samples of one fold, or of the model that is registered."""
    from feature_store.training import load_split, load_unlabelled

    training = load_split(task.spec, task.dataset, task.features, "train", fold=fold)
    validation = load_split(task.spec, task.dataset, task.features, "val", training.reference, fold=fold)
    unlabelled = load_unlabelled(task.spec, task.dataset, task.features, training.reference)
    progress = Progress(what, estimator.epochs * (1 + hard_negatives.rounds(task.spec)))

    def on_epoch(epoch: Epoch) -> None:
        progress.advance(1, **{name: round(epoch[name], 4) for name in FIGURES if name in epoch})

    more: dict[str, Any] = {} if unlabelled is None else {"unlabelled": unlabelled}
    checkpoint.mkdir(parents=True, exist_ok=True)

    def fit_on(samples: Samples, number: int = 1) -> list[Epoch]:
        place = checkpoint if number == 1 else checkpoint / f"round-{number}"
        place.mkdir(exist_ok=True)
        return estimator.fit(samples, validation.samples, seed=task.seed, checkpoint=place, on_epoch=on_epoch, **more)

    history, rounds = fit_on(training.samples), {}
    if hard_negatives.rounds(task.spec):
        history, rounds = hard_negatives.refit(task.spec, estimator, history, training.samples, fit_on)
    last = None
    if task.spec.aggregate is not None:
        last = partial(aggregate.fit, task.spec, estimator, validation.samples, validation.rows, seed=task.seed)
    counts = {"train": len(training.samples), "val": len(validation.samples)} | ({"unlabelled": len(unlabelled)} if unlabelled is not None else {})
    return Fitted(estimator, history, training.reference, counts, rounds, last)


def fit_folds(task: Task, numbers: list[int], checkpoint: Path) -> list[dict[str, Any]]:
    """Fit one model per fold; finished ones of a training that was killed are kept.

    Returns:
        Facts of each: fold, epochs, best_epoch, best, samples, weights_sha256. The models lie in `checkpoint/<nnn>/done`.
    """
    found = []
    for place, fold in enumerate(numbers):
        own = checkpoint / f"{fold:03d}"
        own.mkdir(parents=True, exist_ok=True)
        remove_partials(own)
        done = own / "done"
        if not done.is_dir():
            what = f"train {task.family}, fold {place + 1} of {len(numbers)}"
            fitted = fit(task, models.build(task.spec, task.family), checkpoint=own, fold=fold, what=what)
            with atomic_dir(done) as folder:
                weights = fitted.write(folder)
                write_json(folder / "fold.json", {"fold": fold, "weights_sha256": weights} | fitted.facts())
            for entry in own.iterdir():  # its checkpoint has done its work; of many folds these would fill a disk
                if entry != done and entry.is_file():
                    entry.unlink()
        found.append(json.loads((done / "fold.json").read_text(encoding="utf-8")))
    return found


def keep_folds(numbers: list[int], checkpoint: Path, folder: Path) -> None:
    """Copy the finished folds to `folder/folds/<nnn>`."""
    for fold in numbers:
        shutil.copytree(checkpoint / f"{fold:03d}" / "done", folder / "folds" / f"{fold:03d}")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
