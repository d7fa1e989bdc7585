"""The train step as a function of folders: what it writes, that it repeats, and that a kill costs nothing but time."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import ServiceError, SpecError
from components.core.models import build
from components.core.models.family_figures import best_epoch, validation_figures
from components.core.spec import DiseaseSpec
from components.train.step import train
from feature_store.training import load_split
from tests.train.small_dataset import small_spec, write_small_dataset

EPOCHS = 25


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Home, MLflow file, data set and an empty feature folder, made once."""
    folder = tmp_path_factory.mktemp("train")
    write_small_dataset(folder / "dataset", small_spec())
    (folder / "features").mkdir()
    return folder


@pytest.fixture(autouse=True)
def _home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(place / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DXFLOW_DEVICE", "cpu")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def run(place: Path, name: str, spec: DiseaseSpec, *, family: str = "cnn", seed: int = 3) -> Path:
    train(spec, family=family, seed=seed, dataset=place / "dataset", features=place / "features", model=place / name)
    return place / name


def contents(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.fixture(scope="module")
def uninterrupted(place: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name, value in {"DXFLOW_HOME": str(place / "home"), "OMP_NUM_THREADS": "1", "DXFLOW_DEVICE": "cpu"}.items():
            patch.setenv(name, value)
        return run(place, "whole", small_spec(epochs=EPOCHS))


def test_model_folder_says_what_it_is(uninterrupted: Path):
    info = json.loads((uninterrupted / "model.json").read_text())
    assert set(contents(uninterrupted)) == {"model.safetensors", "spec.json", "model.json", "history.json"}
    assert DiseaseSpec.from_json((uninterrupted / "spec.json").read_text()) == small_spec(epochs=EPOCHS)
    assert (info["family"], info["kind"], info["seed"], info["device"], info["feature_name"]) == ("cnn", "sun2016-cnn", 3, "cpu", None)
    assert info["weights_sha256"] == contents(uninterrupted)["model.safetensors"]
    assert info["samples"] == {"train": 64, "val": 16}
    assert len(json.loads((uninterrupted / "history.json").read_text())) == EPOCHS


def test_weights_are_those_of_the_best_epoch(place: Path, uninterrupted: Path):
    """Scoring validation with the saved weights gives the best epoch's figures, not the last's."""
    spec = small_spec(epochs=EPOCHS)
    history = json.loads((uninterrupted / "history.json").read_text())
    best = best_epoch(history)
    assert best["val_auc"] == max(epoch["val_auc"] for epoch in history)
    assert json.loads((uninterrupted / "model.json").read_text())["best_epoch"] == best["epoch"]
    estimator = build(spec, "cnn")
    estimator.load(uninterrupted)
    val = load_split(spec, place / "dataset", place / "features", "val").samples
    figures = validation_figures(spec, val.labels, estimator.scores(val.all()))
    assert figures["val_auc"] == best["val_auc"]
    assert figures["val_loss"] == pytest.approx(best["val_loss"], abs=1e-6)


def test_same_inputs_same_bytes_and_another_seed_other_weights(place: Path):
    spec = small_spec(epochs=2)
    assert contents(run(place, "one", spec)) == contents(run(place, "two", spec))
    assert contents(run(place, "three", spec, seed=4))["model.safetensors"] != contents(place / "one")["model.safetensors"]


def test_kill_then_same_command_gives_the_same_folder(place: Path, uninterrupted: Path):
    """kill -9 in the middle: no model folder, a checkpoint; then bit-identical weights, and the checkpoint is gone."""
    code = (
        "import sys; from pathlib import Path; from components.train.step import train; from tests.train.small_dataset import small_spec\n"
        f"train(small_spec(epochs={EPOCHS}), family='cnn', seed=3, dataset=Path(sys.argv[1]), features=Path(sys.argv[2]), model=Path(sys.argv[3]))"
    )
    arguments = [str(place / name) for name in ("dataset", "features", "killed")]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, env=env, cwd=place)
    assert child.stdout is not None
    for line in child.stdout:
        if '"progress"' in line:  # the first epoch has ended
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    assert not (place / "killed").exists()
    checkpoints = list((place / "home" / "work").glob("train-*/last.safetensors"))
    assert len(checkpoints) == 1
    assert contents(run(place, "killed", small_spec(epochs=EPOCHS))) == contents(uninterrupted)
    assert not list((place / "home" / "work").glob("train-*"))


def test_damaged_checkpoint_starts_over(place: Path, uninterrupted: Path, tmp_path: Path):
    """A checkpoint that cannot be read costs time, never the result."""
    spec = small_spec(epochs=EPOCHS)
    splits = {name: load_split(spec, place / "dataset", place / "features", name).samples for name in ("train", "val")}
    (tmp_path / "last.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{not json}")
    estimator = build(spec, "cnn")
    estimator.fit(splits["train"], splits["val"], seed=3, checkpoint=tmp_path, on_epoch=lambda _: None)
    estimator.save(tmp_path)
    assert contents(tmp_path)["model.safetensors"] == contents(uninterrupted)["model.safetensors"]


def test_nothing_written_can_run_code(place: Path, uninterrupted: Path):
    """No pickle and no torch archive: neither their first bytes nor their names, checkpoints and the home included."""
    files = [f for f in place.rglob("*") if f.is_file()]
    assert files
    for file in files:
        head = file.read_bytes()[:4]
        assert file.suffix not in {".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt"}, file
        assert head[:2] not in {b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}, file


def test_curves_are_in_mlflow(place: Path, uninterrupted: Path):
    from components.core.registry import client

    mlflow = client()
    experiment = mlflow.get_experiment_by_name("lung-candidate")
    assert experiment is not None
    weights = contents(uninterrupted)["model.safetensors"]
    runs = mlflow.search_runs([experiment.experiment_id], f"tags.`dxflow.weights_sha256` = '{weights}'")
    assert {r.info.status for r in runs} == {"FINISHED"}
    curve = mlflow.get_metric_history(runs[0].info.run_id, "val_auc")
    history = json.loads((uninterrupted / "history.json").read_text())
    assert [(m.step, m.value) for m in sorted(curve, key=lambda m: m.step)] == [(e["epoch"], e["val_auc"]) for e in history]
    assert runs[0].data.params["options.hidden"] == "8"
    assert not (Path.cwd() / "mlruns").exists()


def test_unreachable_mlflow_is_one_line_before_any_training(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    with pytest.raises(ServiceError) as error:
        run(place, "unreachable", small_spec())
    assert "MLFLOW_TRACKING_URI" in str(error.value)
    assert "secret" not in str(error.value)
    assert not (place / "unreachable").exists()


def test_svm_trains_without_torch(place: Path):
    """The baseline's folder names its features; its process never imports torch."""
    code = (
        "import sys; from pathlib import Path; from components.train.step import train; from tests.train.small_dataset import small_spec\n"
        "train(small_spec(), family='svm', seed=0, dataset=Path(sys.argv[1]), features=Path(sys.argv[2]), model=Path(sys.argv[3]))\n"
        "assert 'torch' not in sys.modules"
    )
    arguments = [str(place / name) for name in ("dataset", "features", "svm")]
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=env, cwd=place, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    info = json.loads((place / "svm" / "model.json").read_text())
    assert (info["feature_name"], info["torch"], info["kind"]) == ("hand28", None, "features-svm")


def test_unknown_family_names_the_known_ones(place: Path):
    known = ", ".join(sorted(small_spec().families))
    with pytest.raises(SpecError, match=f"got 'resnet'; allowed: {known}$"):
        run(place, "none", small_spec(), family="resnet")


def test_early_stopping_ends_after_patience(place: Path, tmp_path: Path):
    """With no learning at all the first epoch stays best, and training ends `patience` epochs later."""
    raw = json.loads(small_spec(epochs=50, average=0.0, batch_norm=False, dropout=0.0).to_json())
    raw["families"]["cnn"] |= {"lr": 1e-12, "patience": 3}
    spec = DiseaseSpec.from_json(json.dumps(raw))
    splits = {name: load_split(spec, place / "dataset", place / "features", name).samples for name in ("train", "val")}
    history = build(spec, "cnn").fit(splits["train"], splits["val"], seed=0, checkpoint=tmp_path, on_epoch=lambda _: None)
    best = best_epoch(history)["epoch"]
    assert len(history) == best + 3 < 50


def test_scores_rank_better_than_chance_on_new_samples(place: Path, uninterrupted: Path):
    """The step learns: discs that are brighter score higher on the test split too (seeded, so the figure is fixed)."""
    from components.core.metrics import auc

    spec = small_spec(epochs=EPOCHS)
    estimator = build(spec, "cnn")
    estimator.load(uninterrupted)
    test = load_split(spec, place / "dataset", place / "features", "test").samples
    scores = estimator.scores(test.all())
    assert auc(test.labels, np.diff(scores, axis=1)[:, 0]) > 0.8
