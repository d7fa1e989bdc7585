"""Several families of one disease answering as one: their training, one file of weights, one ONNX file. How they are joined is the kind's."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from components.core import models, scratch
from components.core.errors import DataError, SpecError
from components.core.models.family import BESIDE, Epoch, Estimator, onnx_input
from components.core.models.family_figures import validation_figures
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec, Family

WEIGHTS = "model.safetensors"
KINDS = ("soft-voting", "stacking")
ROWS = 512
Arrays = dict[str, NDArray[np.float32]]
Scores = NDArray[np.float32]


class Join(Protocol):
    """From the members' scores to one answer."""

    def blank(self, members: int, classes: int) -> Arrays:
        """What it will learn, before it has."""
        ...

    def learn(self, labels: NDArray[Any], scores: list[Scores], groups: NDArray[np.object_]) -> Arrays:
        """From labels, each member's (N, K) scores and group ids of samples that no member was trained on."""
        ...

    def apply(self, arrays: Arrays, scores: list[Scores]) -> Scores:
        """Each member's (N, K) scores -> (N, K) logits."""
        ...

    def nodes(self, arrays: Arrays, scores: list[str]) -> tuple[list[Any], Arrays]:
        """ONNX operations from the named members' scores to `scores`, and their constants."""
        ...


def checked_members(spec: DiseaseSpec, family: Family, members: tuple[str, ...]) -> dict[str, Estimator]:
    """The untrained members by name.

    Raises:
        SpecError: Under two, one twice, one that the disease lacks, an ensemble among them, a target without scores per sample, or members
            with different hand-made features: one file of ONNX takes one input.
    """
    where = f"{spec.name}: kind '{family.kind}'"
    known = sorted(name for name, other in spec.families.items() if other.kind not in KINDS)
    if len(members) < 2 or len(set(members)) < len(members) or not set(members) <= set(known):
        raise SpecError(
            "an ensemble needs other families", where=f"{where}: members", got=list(members), allowed=f"two or more of {', '.join(known)}"
        )
    if spec.target.kind == "dense":
        raise SpecError("this family needs one answer per sample", where=where, got="target 'dense'")
    built = {name: models.build(spec, name) for name in members}
    features = sorted({e.feature_name for e in built.values() if e.feature_name is not None})
    if len(features) > 1:
        raise SpecError("members with different hand-made features", where=f"{where}: members", got=", ".join(features), allowed="one kind of them")
    return built


class Ensemble:
    """See `Estimator`.

    Args:
        members: Untrained, by name.
        join: How their scores become one answer.
        held: Share of the training groups by which members choose their best epoch in place of the validation split, which then is new to
            all of them when the join learns from it; 0: they use the validation split as they do alone.
    """

    def __init__(self, spec: DiseaseSpec, members: dict[str, Estimator], join: Join, *, held: float) -> None:
        self.spec, self.named, self.join, self.held = spec, members, join, held
        self.arrays = join.blank(len(members), spec.n_scores)
        features = {e.feature_name for e in members.values()}
        hand_made = "".join(name for name in features if name is not None)
        self.feature_name: str | None = (BESIDE + hand_made if None in features else hand_made) if hand_made else None

    @property
    def members(self) -> list[Estimator]:
        """In the order of the option."""
        return list(self.named.values())

    def fit(
        self, train: Samples, val: Samples, *, seed: int, checkpoint: Path, on_epoch: Callable[[Epoch], None], unlabelled: Samples | None = None
    ) -> list[Epoch]:
        """See `Estimator.fit`. Epochs are those of all members, numbered on, with `member` (from 0) and `member_auc`, then one of the join.

        Only the join's epoch has a `val_auc`: it is the one whose weights are kept. Its figures are on the samples it learned a few numbers
        from. Each member resumes from a checkpoint of its own.
        """
        if not len(val) or not len(train):
            raise DataError("no samples to train with", where=f"{self.spec.name}: ensemble", got=f"{len(train)} in train, {len(val)} in val")
        train, val = train.cached(), val.cached()
        taught, chosen_by = hold_out(train, self.held) if self.held else (train, val)
        history: list[Epoch] = []

        def tell(member: int, epoch: Epoch) -> None:
            own = {name: value for name, value in epoch.items() if name != "val_auc"}
            area = {"member_auc": epoch["val_auc"]} if "val_auc" in epoch else {}
            history.append({**own, **area, "epoch": len(history) + 1, "member": member})
            on_epoch(history[-1])

        for number, (name, member) in enumerate(self.named.items()):
            folder = checkpoint / name
            folder.mkdir(parents=True, exist_ok=True)
            member.fit(taught, chosen_by, seed=seed, checkpoint=folder, on_epoch=lambda e, n=number: tell(n, e), unlabelled=unlabelled)
        started = time.monotonic()
        on_val = self._member_scores(val)
        self.arrays = self.join.learn(val.labels, on_val, val.groups)
        own = validation_figures(self.spec, train.labels, self.join.apply(self.arrays, self._member_scores(train)))
        figures = validation_figures(self.spec, val.labels, self.join.apply(self.arrays, on_val))
        seconds = round(time.monotonic() - started, 3)
        history.append({"epoch": len(history) + 1, "train_loss": own["val_loss"], **figures, "seconds": seconds})
        on_epoch(history[-1])
        return history

    def scores(self, x: NDArray[np.float32]) -> Scores:
        return self.join.apply(self.arrays, [member.scores(x) for member in self.members])

    def save(self, folder: Path) -> None:
        from safetensors.numpy import load_file, save

        together: dict[str, NDArray[Any]] = {f"join/{name}": array for name, array in self.arrays.items()}
        for name, member in self.named.items():
            with scratch.room("ensemble") as own:
                member.save(own)
                together |= {f"{name}/{key}": array for key, array in load_file(own / WEIGHTS).items()}
        (folder / WEIGHTS).write_bytes(save(together))

    def load(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file, save_file

        path = folder / WEIGHTS
        try:
            together = load_file(path)
        except (OSError, SafetensorError):
            raise DataError("no readable weights", where=str(path)) from None
        parts: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in ("join", *self.named)}
        for key, array in together.items():
            part, _, name = key.partition("/")
            if part not in parts:
                raise DataError("weights of another ensemble", where=str(path), got=f"'{part}'", allowed=", ".join(parts))
            parts[part][name] = array
        expected = {name: array.shape for name, array in self.arrays.items()}
        if (found := {name: array.shape for name, array in parts["join"].items()}) != expected:
            raise DataError("weights of another ensemble", where=str(path), got=found, allowed=expected)
        for name, member in self.named.items():
            with scratch.room("ensemble") as own:
                save_file(parts[name], own / WEIGHTS)
                try:
                    member.load(own)
                except DataError as error:
                    raise DataError(error.what, where=f"{path}: {name}", got=error.got, allowed=error.allowed) from None
        self.arrays = parts["join"]

    def export_onnx(self, path: Path) -> None:
        from components.core.models.family_ensemble_onnx import merge

        with scratch.room("ensemble") as folder:
            files: dict[str, Path] = {}
            for name, member in self.named.items():
                files[name] = folder / f"{name}.onnx"
                member.export_onnx(files[name])
            width = self._feature_width()
            takes = {name: "samples" if member.feature_name is None else "features" for name, member in self.named.items()}
            merge(files, takes, path, shape=self.spec.input.shape, features=width, join=lambda scores: self.join.nodes(self.arrays, scores))

    @property
    def epochs(self) -> int:
        return sum(member.epochs for member in self.members) + 1

    @property
    def n_parameters(self) -> int:
        return sum(member.n_parameters for member in self.members) + sum(array.size for array in self.arrays.values())

    def _feature_width(self) -> int:
        """Numbers that the hand-made features have; 0 without."""
        if self.feature_name is None:
            return 0
        return onnx_input(self.feature_name.removeprefix(BESIDE), np.zeros((1, *self.spec.input.shape), np.float32)).shape[1]

    def _member_scores(self, samples: Samples) -> list[Scores]:
        rows = [np.arange(i, min(i + ROWS, len(samples))) for i in range(0, len(samples), ROWS)]
        parts = [[member.scores(x) for member in self.members] for x in (samples.batch(r) for r in rows)]
        return [np.concatenate(scores) for scores in zip(*parts, strict=True)]


def hold_out(samples: Samples, share: float) -> tuple[Samples, Samples]:
    """Two parts of a split, no group in both: of the groups of each class, `share` (at least one) go into the second.

    A group counts for the class of its first sample; a class with a single group stays in the first part. The groups are taken in the order of
    their ids, which are hashes, so nothing is drawn.

    Raises:
        DataError: Nothing can be held out.
    """
    labels = np.asarray(samples.labels)
    first = np.unique(samples.groups.astype(str), return_index=True)[1]
    kinds: dict[Any, list[str]] = {}
    for row in first:
        kinds.setdefault(labels[row].tobytes(), []).append(str(samples.groups[row]))
    out = {group for groups in kinds.values() if len(groups) > 1 for group in sorted(groups)[: max(1, round(share * len(groups)))]}
    chosen = np.isin(samples.groups.astype(str), sorted(out))
    if not chosen.any() or chosen.all():
        raise DataError("too few groups to hold some out", where="stacking", got=f"{len(first)} groups", allowed="two of a class")
    return _part(samples, np.flatnonzero(~chosen)), _part(samples, np.flatnonzero(chosen))


def _part(samples: Samples, rows: NDArray[np.intp]) -> Samples:
    devices = None if samples.devices is None else samples.devices[rows]
    return Samples(batch=lambda chosen: samples.batch(rows[chosen]), labels=samples.labels[rows], groups=samples.groups[rows], devices=devices)
