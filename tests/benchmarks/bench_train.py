"""What our training loop costs beside a bare PyTorch loop over tensors that are already in memory.

Both train the same network with the same optimiser, batch size and random views, on the same threads. Ours reads a memory-mapped data set,
normalises, validates and writes a checkpoint every epoch; the bare loop does none of that.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

N, N_VAL, EPOCHS, REPEATS = 2048, 64, 2, 5
ON_CUDA = 16  # times as many samples: there an epoch of N is a fifth of a second
BOUND = 1.15
SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-candidate.toml"


def run() -> list[dict[str, Any]]:
    """Three ratios: the disease's network held in memory, the same read from the map every epoch, and the small published network."""
    from components.core.cores import available_cores, wait_asleep

    wait_asleep()
    import torch

    from components.core.models import samples

    torch.set_num_threads(available_cores())
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write(folder / "dataset")
        for name, options, held in (
            ("lung-candidate network", None, samples.IN_MEMORY_BYTES),
            ("lung-candidate network, read from the map every epoch", None, 0),
            ("network as published in 2016", {}, samples.IN_MEMORY_BYTES),
        ):
            spec = _spec(options)
            kept, samples.IN_MEMORY_BYTES = samples.IN_MEMORY_BYTES, held
            try:
                ratio, ours = _ratio(spec, folder)
            finally:
                samples.IN_MEMORY_BYTES = kept
            rows.append(
                {
                    "name": f"epoch time against a bare PyTorch loop, {name}",
                    "value": ratio,
                    "unit": "x",
                    "bound": f"<= {BOUND}",
                    "holds": ratio <= BOUND,
                }
            )
            rows.append({"name": f"samples per second in training, {name}", "value": _n() / ours, "unit": "1/s", "bound": None, "holds": None})
    return rows


def _spec(options: dict[str, Any] | None) -> Any:
    from components.core.spec import DiseaseSpec

    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    own = raw["families"]["cnn"]
    own["epochs"] = EPOCHS
    own["options"] = ({**own["options"], "average": 0.0} if options is None else options) | {"views": False}
    return DiseaseSpec.from_json(json.dumps(raw))


def _n() -> int:
    """Samples of an epoch."""
    import torch

    return N * (ON_CUDA if torch.cuda.is_available() else 1)


def _write(path: Path) -> None:
    from components.core.dataset_writer import Sample, write_dataset

    draw, n = np.random.default_rng(0), _n()
    spec = _spec(None)
    made = (
        Sample(
            row={"sample_id": f"{i:06d}", "group_id": f"g{i}", "label": i % 2, "split": "train" if i < n else "val", "synthetic": True},
            array=draw.integers(0, 256, spec.input.shape, dtype=np.uint8),
        )
        for i in range(n + N_VAL)
    )
    write_dataset(path, spec, made, count=n + N_VAL, quarantine=[], provenance={"source": "noise"})


def _ratio(spec: Any, folder: Path) -> tuple[float, float]:
    """(ratio of the quickest epochs, seconds of ours); the two loops take turns, and other work on the machine can only slow them."""
    bare = _bare_loop(spec, folder)
    ours_s, bare_s = [], []
    for repeat in range(REPEATS):
        for seconds, loop in ((bare_s, bare), (ours_s, lambda n=repeat: _ours(spec, folder, n))):
            started = time.perf_counter()
            loop()
            seconds.append((time.perf_counter() - started) / EPOCHS)
    return min(ours_s) / min(bare_s), min(ours_s)


def _ours(spec: Any, folder: Path, number: int) -> None:
    from components.core.models import build
    from feature_store.training import load_split

    train, val = (load_split(spec, folder / "dataset", folder, split).samples for split in ("train", "val"))
    with tempfile.TemporaryDirectory() as checkpoint:
        build(spec, "cnn").fit(train, val, seed=number, checkpoint=Path(checkpoint), on_epoch=lambda _: None)


def _bare_loop(spec: Any, folder: Path) -> Callable[[], None]:
    import torch
    from torch.nn import functional as F

    from components.core.imaging.augment import warp
    from components.core.models import build
    from components.core.models.torch_device import mixed_precision
    from feature_store.training import load_split

    samples = load_split(spec, folder / "dataset", folder, "train").samples
    x, y = torch.from_numpy(samples.all()), torch.from_numpy(np.asarray(samples.labels))
    family = spec.families["cnn"]

    def loop() -> None:
        estimator: Any = build(spec, "cnn")
        network, views = estimator.module.train(), estimator.augment
        device = next(network.parameters()).device
        amp, _ = mixed_precision(device)
        images, labels = x.to(device), y.to(device)
        optimiser = torch.optim.AdamW(network.parameters(), lr=family.lr, weight_decay=family.weight_decay)
        generator = torch.Generator().manual_seed(0)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(images), generator=generator).split(family.batch):
                batch = warp(images[rows], views.draw(len(rows), images.shape[-2], images.shape[-1], generator).to(device))
                with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
                    loss = F.cross_entropy(network(batch.contiguous(memory_format=torch.channels_last)), labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()

    return loop
