"""Train one family of one disease: dataset and profiles in, model folder out."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from components.core import code, models
from components.core.atomic import atomic_dir
from components.core.cores import available_cores, wait_asleep
from components.core.dataset import Dataset
from components.core.errors import DataError, SpecError
from components.core.folds import fold_numbers
from components.core.home import work_dir
from components.core.models.family import Estimator
from components.core.spec import DiseaseSpec
from components.train.folds import Task, fit, fit_folds, keep_folds, write_json

SCHEMA_VERSION = 1


def train(spec: DiseaseSpec, *, family: str, seed: int, dataset: Path, features: Path, model: Path) -> dict[str, Any]:
    """Fit and write `model/`: model.safetensors, spec.json, model.json, history.json and, where devices are normalised, reference.json.

    With cross-validation the folds come first, one after another: `folds/<nnn>/` holds each one's weights, history and reference. The model
    in `model/` itself is the one that is registered; no fold's test sample is new to it, so nothing is claimed from it but by the folds.

    The same inputs give the same folder, byte by byte, on the same machine; a killed training goes on from the last epoch of its last fold.
    Seconds go to MLflow only.

    Args:
        family: A key of `spec.families`; "" means `spec.default_family`.
        seed: Of the weights' start, the order of samples and every augmentation.
        dataset: As written by ingest.
        features: Feast folder with the device profiles.

    Returns:
        The contents of model.json.

    Raises:
        SpecError, DataError: As the family and `load_split` say. ServiceError: MLflow is away, before training; or after it, and then the
            training is not lost.
    """
    family = family or spec.default_family
    if family not in spec.families:
        raise SpecError("no such family", where=f"{spec.name}: families", got=f"'{family}'", allowed=", ".join(sorted(spec.families)))
    wait_asleep()
    key = _key(spec, family, seed, dataset, features)
    from components.train.tracking import Tracking

    tracking = Tracking(spec.name)
    estimator = models.build(spec, family)
    device, torch_version = _prepare(estimator)

    checkpoint, task = work_dir("train", key), Task(spec, family, seed, dataset, features)
    numbers = fold_numbers(Dataset(dataset, expect=spec).manifest) if spec.split.folds != 1 else []
    if spec.split.folds != 1 and len(numbers) < 2:
        raise DataError("the dataset has no folds", where=f"{dataset}: fold", got=len(numbers), allowed=spec.split.folds)
    folds = fit_folds(task, numbers, checkpoint / "folds")
    fitted = fit(task, estimator, checkpoint=checkpoint, what=f"train {family}")
    with atomic_dir(model) as folder:
        weights = fitted.write(folder)
        info: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "disease": spec.name,
            "family": family,
            "kind": spec.families[family].kind,
            "seed": seed,
            "n_parameters": estimator.n_parameters,
            "feature_name": estimator.feature_name,
            "device": device,
            "torch": torch_version,
            "weights_sha256": weights,
        } | fitted.facts()
        if folds:
            info["folds"] = folds
            keep_folds(numbers, checkpoint / "folds", folder)
        write_json(folder / "model.json", info)
        (folder / "spec.json").write_text(spec.to_json(), encoding="utf-8")
    params = {
        "family": family,
        "seed": seed,
        "n_parameters": estimator.n_parameters,
        "device": device,
        **spec.families[family].model_dump(exclude={"options"}),
    }
    params |= {f"options.{name}": value for name, value in spec.families[family].options.items()}
    tracking.log(
        name=f"{family}-{seed}-{key[:8]}",
        key=key,
        params=params,
        tags={"dxflow.weights_sha256": weights, "dxflow.disease": spec.name},
        history=fitted.history,
    )
    shutil.rmtree(checkpoint, ignore_errors=True)
    return info


def _key(spec: DiseaseSpec, family: str, seed: int, dataset: Path, features: Path) -> str:
    """Hash of all inputs: the spec, the family, the seed, the dataset's manifest (which holds a hash of every sample), the profiles, the code."""
    digest = hashlib.sha256(json.dumps([spec.to_json(), family, seed]).encode())
    digest.update(code.digest(Path(__file__).resolve().parents[2], ("components/core", "components/train", "feature_store")).encode())
    files = [dataset / "dataset.json", dataset / "manifest.parquet", *sorted(features.rglob("*.parquet"))]
    for file in files:
        if file.is_file():
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _prepare(estimator: Estimator) -> tuple[str, str | None]:
    """Give torch the cores this process may use; the kind of device and torch's version, (cpu, None) for families that do without torch."""
    from components.core.models.torch_fit import TorchEstimator

    networks = [e for e in (estimator, *getattr(estimator, "members", ())) if isinstance(e, TorchEstimator)]
    if not networks:
        return "cpu", None
    import torch

    torch.set_num_threads(available_cores())
    return networks[0].device.type, torch.__version__
