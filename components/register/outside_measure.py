"""What tells an image of something else from one of another device: learned from the dataset's own samples and from what devices would make of them.

A measure that knows only the devices of its source would refuse the next one. So each sample is also looked at as other devices would have given it
(`components/core/imaging/acquisition_jitter.py`, which training uses too), and the measure spans both. All samples take part, those of training too:
figures of a sample do not depend on the model. The network's embedding does, and is learned from samples that the network did not learn from.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core import image_quality, outside
from components.core.dataset import Dataset
from components.core.embedding import PREFIX
from components.core.likeness import Likeness, bound
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd

MOST = 1500  # samples, evenly over the dataset
COPIES = 2  # of each, as other devices would have given it
CHUNK = 128
STRENGTH = {"image": 1.25, "tiles": 1.25, "volume": 1.75, "window": 1.5}
"""Of `acquisition_jitter`, where 1 is about what two makers differ by. MR has no unit, and worn sensors slip and are put on anew."""
LEVEL = 0.94
SMOOTH_LEVEL = 0.99
TABLE_LEVEL = 0.99  # no devices to allow for
NETWORK_SLACK = 2.0  # of the embedding's limit: what a new device does to it is not simulated


def write(path: Path, spec: DiseaseSpec, dataset: Path, reference: pd.DataFrame) -> str:
    """Write `outside.json`.

    Args:
        reference: As `drift_reference.build` gives it, with columns of the embedding where there is one.

    Returns:
        What the server will say of the check (`outside.Outside.check`).
    """
    data = Dataset(dataset, expect=spec)
    image = learn(spec, data) if spec.abstain.outside else None
    judged = image is not None
    path.write_text(outside.to_json(image, _network(reference) if judged else None, smoothest(spec, data) if judged else None), encoding="utf-8")
    return outside.SWITCHED_OFF if not spec.abstain.outside else outside.TOO_FEW if image is None else outside.JUDGED


def learn(spec: DiseaseSpec, data: Dataset) -> Likeness | None:
    """The measure over figures of samples, or of a table's columns."""
    rows = _rows(data)
    if not len(rows):
        return None
    x = data.read(rows)
    looks = [x, *(as_other_devices(x, spec, seed) for seed in range(COPIES if spec.input.layout != "table" else 0))]
    names: tuple[str, ...] = ()
    parts = []
    for look in looks:
        for start in range(0, len(look), CHUNK):
            piece = look[start : start + CHUNK]
            names, values = outside.vector(piece, image_quality.figures(piece, spec), spec)
            parts.append(values)
    manifest = data.manifest.iloc[rows]
    groups, devices = (np.tile(manifest[name].astype(str).to_numpy(), len(looks)) for name in ("group_id", "device_key"))
    level = TABLE_LEVEL if spec.input.layout == "table" else LEVEL
    return Likeness.fit(
        names, np.concatenate(parts), groups.tolist(), devices.tolist(), floor=outside.floors(names), level=level, copies=len(looks)
    )  # fmt: skip


def smoothest(spec: DiseaseSpec, data: Dataset) -> float | None:
    """The limit of `outside.smoothness`, from samples as they are; None for a table."""
    rows = _rows(data)
    if spec.input.layout == "table" or not len(rows):
        return None
    found = np.concatenate([outside.smoothness(data.read(rows[start : start + CHUNK]), spec) for start in range(0, len(rows), CHUNK)])
    return bound(found, np.unique(data.manifest["group_id"].astype(str).to_numpy()[rows], return_inverse=True)[1], SMOOTH_LEVEL)


def _rows(data: Dataset) -> NDArray[np.int64]:
    own = np.flatnonzero(~data.manifest["split"].astype(str).str.startswith(("external", "pretrain")))
    return own[np.unique(np.linspace(0, len(own) - 1, min(MOST, len(own))).astype(np.int64))] if len(own) else own


def as_other_devices(x: NDArray[np.generic], spec: DiseaseSpec, seed: int) -> NDArray[np.generic]:
    """Samples (n, *input.shape) in the spec's unit and type, each as a device of its own would have given it; within the spec's range."""
    import torch

    from components.core.imaging.acquisition_jitter import jittered

    low, high = spec.input.range
    generator = torch.Generator().manual_seed(seed)
    out = []
    for start in range(0, len(x), CHUNK):
        unit = (np.asarray(x[start : start + CHUNK], dtype=np.float32) - np.float32(low)) / np.float32(high - low)
        seen = jittered(torch.from_numpy(unit.clip(0, 1)), STRENGTH[spec.input.layout], generator).numpy()
        out.append(seen * np.float32(high - low) + np.float32(low))
    y = np.concatenate(out)
    return y if np.dtype(spec.input.dtype).kind == "f" else np.rint(y).astype(spec.input.dtype)


def _network(reference: pd.DataFrame) -> Likeness | None:
    names = [name for name in reference.columns if name.startswith(PREFIX)]
    if not names:
        return None
    from dataclasses import replace

    x = reference[names].to_numpy(np.float64)
    groups = reference["group_id"].astype(str).tolist()
    found = Likeness.fit(names, x, groups, [""] * len(x), floor=np.full(len(names), 0.25), level=LEVEL)
    return None if found is None else replace(found, limit=NETWORK_SLACK * found.limit)
