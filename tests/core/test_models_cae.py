"""The 3D convolutional auto-encoder: the published layout counted by hand, reconstruction that improves, weights that are handed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from components.core.errors import SpecError
from components.core.models import build
from components.core.models.cae_3d import Architecture, network
from components.core.models.samples import Samples
from components.core.models.torch_device import reproducible
from components.core.models.torch_pretrain import Given
from components.core.spec import DiseaseSpec

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"


def spec_of(shape: tuple[int, ...] = (1, 8, 8, 8), *, epochs: int = 1, lr: float = 1.0, **options: object) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["input"] |= {"shape": list(shape), "layout": "volume" if len(shape) == 4 else "image", "spacing_mm": None}
    raw["families"] = {"cae": {"kind": "cae-3d", "epochs": epochs, "batch": 4, "lr": lr, "options": {"hidden": [6], "maps": [3, 2], **options}}}
    raw["default_family"] = "cae"
    return DiseaseSpec.from_json(json.dumps(raw))


def blobs(n: int = 16, seed: int = 0, side: int = 8) -> Samples:
    """Smooth volumes: a ball at a random place, so that there is something to compress."""
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"))
    centres = draw.uniform(2, side - 2, (n, 3, 1, 1, 1))
    x = np.exp(-((grid - centres) ** 2).sum(axis=1) / 8).astype(np.float32)[:, None].copy()  # plain strides: others choose other kernels
    return Samples(batch=lambda rows: x[rows], labels=(centres[:, 0, 0, 0, 0] > side / 2).astype(np.int64), groups=np.arange(n).astype(object))


def given(samples: Samples, folder: Path) -> Given:
    return Given(samples, samples, 1, torch.device("cpu"), "test", folder, "key")


def test_published_layout_has_the_weights_counted_by_hand():
    """32^3 -> 16 -> 8 -> 4: 3 x 3 x 3 kernels 27 + 1, then 8 x 27 + 1, twice, 8 maps each; 8 x 4^3 = 512 into 2000-500-200-20-3."""
    whole = network((1, 32, 32, 32), 3, Architecture())
    convolutions = 8 * 28 + 2 * 8 * (8 * 27 + 1)
    dense = 512 * 2000 + 2000 + 2000 * 500 + 500 + 500 * 200 + 200 + 200 * 20 + 20 + 20 * 3 + 3
    assert sum(p.numel() for p in whole.get_submodule("encoder").parameters()) == convolutions == 3696
    assert sum(p.numel() for p in whole.parameters()) == convolutions + dense == 2134479
    assert whole.eval()(torch.zeros(2, 1, 32, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(1, 9, 12, 11), (2, 4, 4, 4)])
def test_takes_other_sizes_and_channels_also_in_pretraining(shape: tuple[int, ...], tmp_path: Path):
    x = np.random.default_rng(0).random((6, *shape), dtype=np.float32)
    samples = Samples(batch=lambda rows: x[rows], labels=np.arange(6) % 2, groups=np.arange(6).astype(object))
    own = build(spec_of(shape, pretrain_epochs=1))
    own.fit(samples, samples, seed=0, checkpoint=tmp_path, on_epoch=lambda _: None)
    assert np.isfinite(own.scores(x)).all()


def test_volume_that_vanishes_and_an_image_are_refused():
    with pytest.raises(SpecError, match="vanish"):
        build(spec_of((1, 3, 8, 8)))
    with pytest.raises(SpecError, match="volumes"):
        build(spec_of((1, 8, 8)))


def test_each_stage_reconstructs_better_and_leaves_the_earlier_ones_alone(tmp_path: Path):
    own: Any = build(spec_of(pretrain_epochs=15))
    encoders = list(own.module.encoder)
    losses: dict[str, list[float]] = {}
    before: dict[str, list[torch.Tensor]] = {}

    class Watched(Given):
        def stage(self, stage: str, *rest: Any) -> list[float]:
            before[stage] = [p.clone() for e in encoders for p in e.parameters()]
            losses[stage] = super().stage(stage, *rest)
            return losses[stage]

    samples = blobs()
    own.pretrain(own.module, Watched(samples, samples, 1, torch.device("cpu"), "test", tmp_path, "key"))
    assert list(losses) == ["layer-1", "layer-2"]
    assert losses["layer-1"][-1] < 0.5 * losses["layer-1"][0]
    assert losses["layer-2"][-1] < losses["layer-2"][0]
    first = list(encoders[0].parameters())
    assert all(torch.equal(a, b) for a, b in zip(before["layer-2"][: len(first)], first, strict=True))
    assert not torch.equal(before["layer-1"][0], first[0])


def test_classifier_starts_from_the_encoder_of_the_unlabelled_set_and_a_frozen_one_keeps_it(tmp_path: Path):
    """With encoder_rate = 0 the fitted encoder is the pre-trained one bit by bit; without it, supervised training moves it."""
    unlabelled, train = blobs(seed=5), blobs()

    def encoder_of(spec: DiseaseSpec, folder: str) -> list[torch.Tensor]:
        own: Any = build(spec)
        own.fit(train, train, seed=1, checkpoint=tmp_path / folder, on_epoch=lambda _: None, unlabelled=unlabelled)
        return list(own.module.encoder.parameters())

    alone: Any = build(spec_of(pretrain_epochs=2))
    module = alone._fresh(1)
    with reproducible(alone.device):  # as `fit` does: other kernels round differently
        alone.pretrain(module, given(unlabelled, tmp_path / "alone"))
    expected = list(module.encoder.parameters())
    frozen, tuned = encoder_of(spec_of(pretrain_epochs=2, encoder_rate=0.0), "f"), encoder_of(spec_of(pretrain_epochs=2), "t")
    assert all(torch.equal(a, b) for a, b in zip(expected, frozen, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(expected, tuned, strict=True))


def test_learns_which_half_of_a_volume_holds_the_ball(tmp_path: Path):
    own = build(spec_of(epochs=30, pretrain_epochs=3, hidden=[16], maps=[8, 8], batch_norm=True))
    history = own.fit(blobs(32), blobs(32, seed=3), seed=0, checkpoint=tmp_path, on_epoch=lambda _: None)
    assert max(epoch["val_auc"] for epoch in history) > 0.9
