"""Training with folds: one model for each, that never saw its test groups, and a kill that costs at most one fold's last epoch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.dataset import Dataset
from components.core.dataset_writer import Sample, write_dataset
from components.core.errors import DataError
from components.core.folds import roles
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec
from components.train import folds as module
from components.train.step import train
from feature_store.training import load_split, load_unlabelled
from tests.train.small_dataset import small_spec

FOLDS = 3


def spec_of(**changes: Any) -> DiseaseSpec:
    raw = json.loads(small_spec(epochs=2).to_json())
    raw["split"] = {"grouping": "patient", "train": 0.6, "val": 0.2, "test": 0.2, "folds": FOLDS}
    return DiseaseSpec.model_validate(raw | changes)


def write(path: Path, spec: DiseaseSpec, *, fold: bool = True) -> Path:
    """24 groups of two; the first value of every image is its group. Two external sets of four samples; one has no labels."""
    draw = np.random.default_rng(0)
    samples = []
    for i in range(56):
        group, outside = i // 2, i >= 48
        image = draw.normal(90, 40, spec.input.shape).clip(0, 255).astype(np.uint8)
        image[0, 0, 0] = group
        row: dict[str, Any] = {"sample_id": f"{i:05d}", "group_id": f"g{group:02d}", "device_key": "d0", "label": i % 2, "synthetic": True}
        row |= {"split": "val" if group % 5 == 0 else "train", "fold": group % FOLDS if fold else None}
        if outside:
            row |= {"fold": None, "split": "external-clinic" if i < 52 else "pretrain-pool", "label": 1 if i < 52 else None}
        samples.append(Sample(row, image))
    write_dataset(path, spec, samples, count=len(samples), quarantine=[], provenance={})
    return path


EXTERNAL = [{"name": "clinic", "source": "clinic"}, {"name": "pool", "source": "pool", "role": "pretrain"}]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DXFLOW_DEVICE", "cpu")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "features").mkdir()


def contents(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_every_fold_leaves_a_model_and_a_kill_costs_one_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    spec = spec_of(external=EXTERNAL)
    places = {"dataset": write(tmp_path / "dataset", spec), "features": tmp_path / "features"}
    info = train(spec, family="cnn", seed=1, **places, model=tmp_path / "whole")
    said = capsys.readouterr().out
    assert all(f"train cnn, fold {n} of 3" in said for n in (1, 2, 3))
    per_fold = {f"folds/{n:03d}/{name}" for n in range(FOLDS) for name in ("model.safetensors", "history.json", "fold.json")}
    assert set(contents(tmp_path / "whole")) == {"model.safetensors", "spec.json", "model.json", "history.json"} | per_fold
    assert [f["fold"] for f in info["folds"]] == [0, 1, 2]
    assert len({f["weights_sha256"] for f in info["folds"]} | {info["weights_sha256"]}) == 4
    assert info["samples"] == {"train": 38, "val": 10, "unlabelled": 4}
    assert all(f["samples"]["train"] + f["samples"]["val"] == 32 for f in info["folds"])

    real, fits = module.fit, []

    def dying(*args: Any, **options: Any) -> Any:
        if options["fold"] == 2 and not fits[2:]:
            fits.append(options["fold"])
            raise KeyboardInterrupt
        fits.append(options["fold"])
        return real(*args, **options)

    monkeypatch.setattr(module, "fit", dying)
    with pytest.raises(KeyboardInterrupt):
        train(spec, family="cnn", seed=1, **places, model=tmp_path / "again")
    train(spec, family="cnn", seed=1, **places, model=tmp_path / "again")
    assert fits == [0, 1, 2, 2]  # what had ended is not fitted again
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    assert not list((tmp_path / "home" / "work").glob("train-*"))


def test_a_fold_never_sees_its_test_groups(tmp_path: Path):
    """The first pixel names the group: what train and val hold of it is not in test."""
    spec = spec_of(external=EXTERNAL)
    dataset = write(tmp_path / "dataset", spec)
    for fold in range(FOLDS):
        seen = {}
        for name in ("train", "val", "test"):
            samples = load_split(spec, dataset, tmp_path / "features", name, fold=fold).samples
            seen[name] = set(np.rint(samples.all()[:, 0, 0, 0] * 255).astype(int).tolist())
        assert seen["test"] == {g for g in range(24) if g % FOLDS == fold}
        assert not seen["test"] & (seen["train"] | seen["val"])
        assert not seen["train"] & seen["val"]
        assert len(seen["val"]) == 4  # a quarter of 16 groups
        assert seen["train"] | seen["val"] | seen["test"] == set(range(24))
        rows = Dataset(dataset).manifest
        assert all(role is None for role in roles(rows, spec, fold)[48:])


def test_pretraining_sees_its_own_set_and_no_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spec = spec_of(external=EXTERNAL, split={"grouping": "patient"})
    dataset = write(tmp_path / "dataset", spec, fold=False)
    given: list[Samples | None] = []
    from components.core.models.torch_fit import TorchEstimator

    real = TorchEstimator.fit
    monkeypatch.setattr(TorchEstimator, "fit", lambda *a, unlabelled=None, **k: (given.append(unlabelled), real(*a, **k))[1])
    train(spec, family="cnn", seed=1, dataset=dataset, features=tmp_path / "features", model=tmp_path / "model")
    assert given[0] is not None
    assert np.rint(given[0].all()[:, 0, 0, 0] * 255).astype(int).tolist() == [26, 26, 27, 27]
    assert given[0].labels.tolist() == [-1] * 4
    assert load_unlabelled(spec_of(), write(tmp_path / "without", spec_of()), tmp_path / "features") is None


def test_folds_without_a_fold_column_is_one_line(tmp_path: Path):
    spec = spec_of(external=EXTERNAL)
    with pytest.raises(DataError, match="the dataset has no folds"):
        train(spec, family="", seed=1, dataset=write(tmp_path / "d", spec, fold=False), features=tmp_path / "features", model=tmp_path / "model")
    with pytest.raises(DataError, match=r"no such fold.*9.*0, 1, 2"):
        load_split(spec, write(tmp_path / "e", spec), tmp_path / "features", "test", fold=9)


def test_a_label_outside_the_classes_is_one_line(tmp_path: Path):
    spec = spec_of(external=EXTERNAL, split={"grouping": "patient"})
    dataset = write(tmp_path / "d", spec, fold=False)
    narrow = spec_of(external=[EXTERNAL[0], {"name": "x", "source": "pool"}], split={"grouping": "patient"})
    assert len(load_split(narrow, dataset, tmp_path / "features", "external-clinic").samples) == 4
    with pytest.raises(DataError, match="no samples in this split"):
        load_split(narrow, dataset, tmp_path / "features", "external-x")
    with pytest.raises(DataError, match="no such split"):
        load_split(narrow, dataset, tmp_path / "features", "pretrain-pool")
