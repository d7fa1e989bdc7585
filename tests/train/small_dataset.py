"""A tiny dataset folder with bright and dark discs, and a small family to train on it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from components.core.dataset_writer import Sample, write_dataset
from components.core.spec import DiseaseSpec

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-candidate.toml"
OPTIONS = {
    "maps": [4, 4, 4],
    "batch_norm": True,
    "dropout": 0.2,
    "hidden": 8,
    "average": 0.9,
    "rotation": "any",
    "shift": 0.05,
    "schedule": "onecycle",
}


def small_spec(*, epochs: int = 3, **options: object) -> DiseaseSpec:
    """lung-candidate with a network of a few hundred weights."""
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["families"]["cnn"] |= {"epochs": epochs, "batch": 16, "lr": 5e-3, "options": OPTIONS | options}
    return DiseaseSpec.from_json(json.dumps(raw))


def write_small_dataset(path: Path, spec: DiseaseSpec, *, n: int = 96, seed: int = 0) -> Path:
    """n samples, two thirds for training; a disc in the middle is a little brighter where the label is 1."""
    draw = np.random.default_rng(seed)
    height, width = spec.input.shape[1:]
    rows, columns = np.indices((height, width))
    disc = np.hypot(rows - height / 2, columns - width / 2) < 8
    samples = []
    for i in range(n):
        label = i % 2
        image = draw.normal(90, 40, (1, height, width)) + disc * (20 + 15 * label)
        row = {
            "sample_id": f"{i:05d}",
            "group_id": f"g{i:05d}",
            "device_key": "d0",
            "label": label,
            "split": ("train", "train", "train", "train", "val", "test")[i // 2 % 6],
        }
        samples.append(Sample(row={**row, "synthetic": True}, array=np.clip(image, 0, 255).astype(np.uint8)))
    write_dataset(path, spec, samples, count=n, quarantine=[], provenance={"source": "drawn by a test"})
    return path
