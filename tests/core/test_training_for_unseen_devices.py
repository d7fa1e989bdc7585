"""Device-balanced sampling and acquisition jitter: what is drawn, and that off means off."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import SpecError
from components.core.imaging.acquisition_jitter import jittered
from components.core.models import build
from components.core.models.device_balance import balanced_order
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

DISEASES = Path(__file__).parents[2] / "pipelines" / "diseases"
SHAPES = ((4, 1, 16, 16), (4, 3, 16, 16), (4, 9, 64), (2, 1, 8, 10, 12))


def generator(seed: int = 0):
    import torch

    return torch.Generator().manual_seed(seed)


def test_every_device_gives_as_many_samples_as_any_other() -> None:
    """90, 8 and 2 samples: 33 or 34 each, the common device's without repeats, a rare one's as evenly as can be."""
    devices = ["a"] * 90 + ["b"] * 8 + ["c"] * 2
    rows = balanced_order(devices, generator()).tolist()
    given = {d: [r for r in rows if devices[r] == d] for d in "abc"}
    assert len(rows) == 100
    assert sorted(len(v) for v in given.values()) == [33, 33, 34]
    assert len(set(given["a"])) == len(given["a"])
    times = np.bincount(given["b"])[90:98]
    assert times.max() - times.min() <= 1
    assert rows != balanced_order(devices, generator(1)).tolist()
    assert rows == balanced_order(devices, generator()).tolist()


def test_one_device_alone_is_a_plain_permutation() -> None:
    assert sorted(balanced_order(["a"] * 20, generator()).tolist()) == list(range(20))


@pytest.mark.parametrize("shape", SHAPES)
def test_jitter_keeps_shape_and_range_repeats_by_seed_and_differs_by_sample(shape: tuple[int, ...]) -> None:
    import torch

    x = torch.rand(1, *shape[1:], generator=generator(5)).expand(shape).contiguous()
    y = jittered(x, 1.0, generator())
    assert y.shape == x.shape
    assert 0 <= float(y.min()) <= float(y.max()) <= 1
    assert torch.equal(y, jittered(x, 1.0, generator()))
    assert not torch.allclose(y[0], y[1], atol=1e-3)
    assert torch.equal(jittered(x, 0.0, generator()), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stronger_jitter_moves_samples_further(shape: tuple[int, ...]) -> None:
    import torch

    x = 0.2 + 0.6 * torch.rand(16, *shape[1:], generator=generator(6))
    moved = [float((jittered(x, s, generator()) - x).abs().mean()) for s in (0.01, 0.5, 1.0, 2.0)]
    assert moved == sorted(moved)
    assert moved[0] < 0.02 * len(shape)


def test_a_network_learns_with_both_switches_and_off_changes_nothing() -> None:
    """The same seed: off explicitly gives the weights of a spec that does not name the switches; on gives others; both give finite scores."""
    raw = json.loads(DiseaseSpec.from_toml(DISEASES / "skin-lesion.toml").to_json())
    x = np.random.default_rng(0).random((24, 3, 16, 16), dtype=np.float32)
    raw["input"]["shape"] = [3, 16, 16]
    devices = np.array(["a"] * 20 + ["b"] * 4, dtype=object)
    samples = Samples(batch=lambda rows: x[rows], labels=np.arange(24) % 7, groups=np.arange(24).astype(object), devices=devices)

    def scores(tmp: Path, **options: object) -> np.ndarray:
        raw["families"]["small"] |= {"epochs": 2, "options": {"maps": [2, 2], **options}}
        estimator = build(DiseaseSpec.from_json(json.dumps(raw)))
        estimator.fit(samples, samples, seed=1, checkpoint=tmp, on_epoch=lambda _: None)
        return estimator.scores(x)

    import tempfile

    found = []
    for options in ({}, {"device_balanced": False, "acquisition_jitter": 0.0}, {"device_balanced": True, "acquisition_jitter": 1.0}):
        with tempfile.TemporaryDirectory() as tmp:
            found.append(scores(Path(tmp), **options))
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    assert np.isfinite(found[2]).all()


def test_a_table_has_no_acquisition() -> None:
    raw = json.loads(DiseaseSpec.from_toml(DISEASES / "breast-cytology.toml").to_json())
    raw["families"][raw["default_family"]]["options"]["acquisition_jitter"] = 1.0
    with pytest.raises(SpecError, match="acquisition"):
        build(DiseaseSpec.from_json(json.dumps(raw)))
