"""Stacked denoising auto-encoders: exact corruption, better restoration, weights handed over; and they learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from components.core.models import build, sdae
from components.core.models.samples import Samples
from components.core.models.torch_pretrain import Given
from tests.core.tables import table, table_spec


def given(folder: Path, samples: Samples) -> Given:
    return Given(samples, samples, 3, torch.device("cpu"), "test", folder, "key")


@pytest.mark.parametrize(("share", "masked"), [(0.0, 0), (0.25, 3), (0.5, 6), (1.0, 12)])
def test_masking_takes_exactly_its_share_of_each_sample_and_leaves_the_rest(share: float, masked: int):
    x = torch.rand(200, 12, generator=torch.Generator().manual_seed(1)) + 1
    seen = sdae.mask(x, share, torch.Generator().manual_seed(0))
    assert ((seen == 0).sum(dim=1) == masked).all()
    assert ((seen == 0) | (seen == x)).all()
    if 0 < share < 1:
        assert (seen == 0).float().mean(dim=0).tolist() == pytest.approx([share] * 12, abs=0.12)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("noise", ["masking", "gaussian"])
def test_every_layer_restores_better_with_time(tied: bool, noise: str, tmp_path: Path):
    own: Any = build(table_spec("sdae", units=[8, 6]))
    architecture = sdae.Architecture(units=(8, 6), pretrain_epochs=15, pretrain_lr=1e-2, tied=tied, noise=noise)  # pyright: ignore[reportArgumentType]
    losses = sdae.pretrain_encoders(own.module, given(tmp_path, table()), architecture, batch=16)
    assert len(losses) == 2
    assert all(layer[-1] < layer[0] for layer in losses)


def test_tied_decoder_is_the_encoder_transposed():
    encoder = torch.nn.Linear(5, 3)
    h = torch.eye(3)
    assert torch.allclose(sdae.decoder(encoder, tied=True)(h), encoder.weight)
    assert len(list(sdae.decoder(encoder, tied=True).parameters())) == 1
    assert len(list(sdae.decoder(encoder, tied=False).parameters())) == 2


def test_classifier_starts_from_the_encoders(tmp_path: Path):
    """With a vanishing rate the fitted layers are the pre-trained ones."""
    spec = table_spec("sdae", units=[8, 6], pretrain_epochs=3, lr=1e-12)
    own: Any = build(spec)
    module = own._fresh(3)
    own.pretrain(module, given(tmp_path / "a", table()))
    untouched = own._fresh(3)
    own.fit(table(), table(seed=1), seed=3, checkpoint=tmp_path / "b", on_epoch=lambda _: None)
    for n in range(2):
        assert torch.allclose(own.module.layers[n][0].weight, module.layers[n][0].weight, atol=1e-6)
        assert not torch.allclose(own.module.layers[n][0].weight, untouched.layers[n][0].weight, atol=1e-3)


def test_learns_a_table(tmp_path: Path):
    own = build(table_spec("sdae", epochs=15, lr=1e-2, units=[24, 16], pretrain_epochs=5))
    own.fit(table(), table(seed=1), seed=0, checkpoint=tmp_path, on_epoch=lambda _: None)
    test = table(seed=2)
    assert (own.scores(test.all()).argmax(axis=1) == test.labels).mean() > 0.85
