"""What ingest, validate and train leave behind, small and quick: real writers, a real model family, simulated scanners with known effects."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from components.core import models
from components.core.atomic import atomic_dir
from components.core.dataset_writer import Sample, write_dataset
from components.core.devices import ProfileAccumulator
from components.core.spec import DiseaseSpec

CATALOGUE = Path(__file__).parents[1] / "pipelines" / "diseases"
SIDE = 20
DEVICES = {
    "aaaa1111aaaa1111": ("SIEMENS", "Sensation 16"),
    "bbbb2222bbbb2222": ("GE MEDICAL SYSTEMS", "LightSpeed VCT"),
    "cccc3333cccc3333": ("Philips", "Brilliance"),
}
START = datetime(2019, 1, 1, tzinfo=UTC)


def small_spec(**changes: Any) -> DiseaseSpec:
    """lung-nodule of the catalogue on 20 x 20 patches, with a small network; `changes` replace whole parts."""
    raw = DiseaseSpec.from_toml(CATALOGUE / "lung-nodule.toml").model_dump(mode="json")
    raw["input"] |= {"shape": [1, SIDE, SIDE]}
    raw["families"] = {
        "cnn": {"kind": "sun2016-cnn", "epochs": 4, "batch": 32, "lr": 0.01, "options": {"maps": [4], "same": True}},
        "svm": {"kind": "features-svm", "options": {"cost_low": 1.0, "cost_high": 1.0, "width": 0}},
    }
    raw["gates"] = {"auc_low": 0.7, "device_auc_low": 0.5, "calibration_error": 0.3, "min_n": 60, "min_per_class": 20}
    return DiseaseSpec.model_validate(raw | changes)


def samples(spec: DiseaseSpec, *, patients: int, signal: float, synthetic: bool, seed: int, small_device: bool) -> list[Sample]:
    """Discs in noise; malignant ones are wider. Two patches of each patient; device c, where there is one, has few test samples."""
    rng = np.random.default_rng(seed)
    grid = np.arange(SIDE) - SIDE / 2 + 0.5
    radius = np.hypot(grid[:, None], grid)
    found: list[Sample] = []
    for patient in range(patients):
        keys = list(DEVICES)
        key = keys[2] if small_device and patient % 20 == 0 else keys[patient % 2]
        split = "train" if patient % 10 < 5 else "val" if patient % 10 < 7 else "test"
        if small_device and patient % 20 == 0:
            split = "test" if patient % 40 == 0 else "train"
        for n in range(2):
            label = int(rng.random() < 0.5)
            size = rng.normal(4.0 + signal * label, 1.0)
            gain = {keys[0]: 1.0, keys[1]: 1.15, keys[2]: 0.9}[key]
            image = -850 + 800 * gain / (1 + np.exp(2 * (radius - size))) + rng.normal(0, 60, radius.shape)
            row = {
                "sample_id": f"s{patient:04d}-{n}", "group_id": f"p{patient:04d}", "patient_id": f"p{patient:04d}", "series_id": f"x{patient:04d}",
                "device_key": key, "manufacturer": DEVICES[key][0], "model": DEVICES[key][1], "software": "1", "site": "a",
                "acquired_at": START + timedelta(days=patient), "acq_modality": "CT", "acq_kvp": 120.0, "label": label, "split": split,
                "synthetic": synthetic,
            }  # fmt: skip
            found.append(Sample(row, image[None].astype(spec.input.dtype)))
    return found


def ingest_and_train(
    root: Path,
    spec: DiseaseSpec,
    *,
    family: str = "cnn",
    patients: int = 200,
    signal: float = 2.0,
    synthetic: bool = True,
    seed: int = 0,
    small_device: bool = True,
    profiles: tuple[str, ...] = tuple(DEVICES),
) -> dict[str, Path]:
    """Write `dataset`, `features`, `validation` and `model` under `root`; returns them as the steps' arguments."""  # fmt: skip
    made = samples(spec, patients=patients, signal=signal, synthetic=synthetic, seed=seed, small_device=small_device)
    quarantine = [
        {"file": "a/0001.dcm", "reason": "truncated pixel data", "offset": 812},
        {"file": "a/readme.txt", "reason": "not DICOM", "offset": None},
    ]
    provenance = {"reader": spec.input.reader, "source_digest": "0" * 16}
    write_dataset(root / "dataset", spec, made, count=len(made), quarantine=quarantine, provenance=provenance)
    rows = []
    for key in profiles:
        accumulator = ProfileAccumulator(spec)
        for sample in made:
            if sample.row["device_key"] == key and sample.row["split"] != "test":
                accumulator.add(sample.array[None])
        if accumulator.n:
            rows.append(accumulator.finish(key, "1").to_dict() | {"event_timestamp": START})
    from feature_store.store import write_profiles

    write_profiles(root / "features", rows)
    with atomic_dir(root / "validation") as folder:
        (folder / "validation.json").write_text(json.dumps({"verdict": "pass", "checks": []}))
    train(root, spec, family, seed)
    return {name: root / name for name in ("dataset", "features", "model", "validation")}


def train(root: Path, spec: DiseaseSpec, family: str, seed: int) -> None:
    """The `model` folder as the train step leaves it."""
    from feature_store.training import load_split

    splits = {name: load_split(spec, root / "dataset", root / "features", name) for name in ("train", "val")}
    estimator = models.build(spec, family)
    history = estimator.fit(splits["train"].samples, splits["val"].samples, seed=seed, checkpoint=root / "checkpoint", on_epoch=lambda epoch: None)
    reference = splits["train"].reference
    with atomic_dir(root / "model") as folder:
        estimator.save(folder)
        (folder / "spec.json").write_text(spec.to_json())
        facts = {
            "family": family,
            "kind": spec.families[family].kind,
            "seed": seed,
            "n_parameters": estimator.n_parameters,
            "feature_name": estimator.feature_name,
        }
        (folder / "model.json").write_text(json.dumps(facts))
        if reference is not None:
            (folder / "reference.json").write_text(json.dumps(reference.to_dict()))
        (folder / "history.json").write_text(json.dumps(history))


@cache
def example(kind: str) -> tuple[DiseaseSpec, dict[str, Path]]:
    """One run for all tests of a session, read only.

    `synthetic`: a good model on a phantom. `real`: the same, not marked synthetic. `weak`: real, with little to see, and device c without a
    profile, so that it gets no answer. `features`: the support vector machine on 28 features.
    """
    folder = tempfile.TemporaryDirectory(prefix=f"dxflow-{kind}-")
    KEPT.append(folder)  # removed when the interpreter ends
    spec = small_spec()
    options: dict[str, Any] = {
        "synthetic": {},
        "real": {"synthetic": False},
        "weak": {"synthetic": False, "signal": 0.4, "profiles": tuple(DEVICES)[:2]},
        "features": {"family": "svm"},
    }[kind]
    return spec, ingest_and_train(Path(folder.name), spec, **options)


KEPT: list[tempfile.TemporaryDirectory[str]] = []
