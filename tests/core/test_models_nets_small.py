"""The small reference network: its shapes, its weights counted by hand, and what it can see."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from components.core.errors import SpecError
from components.core.models import build
from components.core.models.samples import Samples
from components.core.models.small_cnn import Architecture, less_background, network
from components.core.spec import DiseaseSpec

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"


def spec_with(shape: tuple[int, ...], **options: object) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["input"]["shape"] = list(shape)
    raw["families"] = {"cnn": {"kind": "small-cnn", "epochs": 15, "batch": 16, "lr": 0.01, "options": options}}
    return DiseaseSpec.from_json(json.dumps(raw))


def test_weights_counted_by_hand():
    """One stage of 4 maps on 3 channels: 4(27+1) + 4(36+1), then mean and maximum of 4 maps to 2 scores. A residual block has two convolutions,
    batch normalisation two numbers per map in place of a bias."""

    def count(**options: object) -> int:
        return sum(p.numel() for p in network(3, 2, Architecture(maps=(4,), **options)).parameters())

    assert count(batch_norm=False) == 4 * 28 + 4 * 37 + 8 * 2 + 2
    assert count(batch_norm=False, residual=True) == 4 * 28 + 2 * 4 * 37 + 8 * 2 + 2
    assert count() == 4 * 27 + 4 * 36 + 2 * 8 + 8 * 2 + 2
    assert count(input_norm=True, pool="mean") == 4 * 27 + 4 * 36 + 2 * 8 + 4 * 2 + 2  # the input's norm has nothing to train


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 28), (2, 9, 33), (3, 96, 96)])
@pytest.mark.parametrize("residual", [False, True])
def test_takes_images_from_eight_pixels_upward(shape: tuple[int, ...], residual: bool):
    scores = build(spec_with(shape, residual=residual, dropout=0.5)).scores(np.zeros((2, *shape), np.float32))
    assert scores.shape == (2, 2)


def test_normalised_input_forgets_a_channels_offset_and_scale():
    """While training, a channel's brightness and contrast are those of the batch: changing them changes nothing."""
    x = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    other = x * torch.tensor([0.5, 0.9, 0.2]).view(3, 1, 1) + torch.tensor([0.4, 0.05, 0.7]).view(3, 1, 1)
    torch.manual_seed(0)
    plain, normed = (network(3, 2, Architecture(maps=(4, 8), batch_norm=False, input_norm=n, pool="mean")).train() for n in (False, True))
    torch.testing.assert_close(normed(x), normed(other), rtol=0, atol=1e-3)
    assert (plain(x) - plain(other)).abs().max() > 0.01


def test_mean_readout_is_blind_to_a_shift_of_whole_strides():
    """A circular shift by the stride moves the maps; away from the border their mean stays, and so do the scores of a 1-pixel-deep spot."""
    model = network(1, 2, Architecture(maps=(4,), blocks=0, pool="mean")).eval()
    x = torch.zeros(2, 1, 16, 16)
    x[0, 0, 6, 6] = x[1, 0, 10, 8] = 1.0
    a, b = model(x)
    torch.testing.assert_close(a, b)
    with pytest.raises(SpecError, match="mean-max, mean"):
        build(spec_with((1, 16, 16), pool="max"))


def test_background_goes_and_a_spot_stays():
    """A level field is nothing but background, up to its border; of a spot one pixel wide stays what its own blur does not hold, and the blur of
    width 2 puts (1 / 5.0)^2 of it, the sum of exp(-k^2 / 8) for |k| <= 4 being 5.0, on its place. A slow lamp goes, a spot under it stays."""
    layer = less_background(2, 2.0)
    assert not list(layer.parameters())
    assert not layer.state_dict()
    torch.testing.assert_close(layer(torch.full((1, 2, 24, 24), 0.7)), torch.zeros(1, 2, 24, 24), rtol=0, atol=1e-6)
    spot = torch.zeros(1, 2, 24, 24)
    spot[0, 0, 12, 12] = 1.0
    line = sum(math.exp(-k * k / 8) for k in range(-4, 5))
    out = layer(spot)
    assert float(out[0, 0, 12, 12]) == pytest.approx(1 - 1 / line**2, abs=1e-6)
    assert not out[0, 1].any()  # each channel by itself
    lamp = torch.linspace(0.2, 0.8, 24).expand(1, 2, 24, 24)
    torch.testing.assert_close(layer(spot + lamp)[..., 4:-4], out[..., 4:-4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["mean", "mean-max"])
def test_the_exported_graph_scores_alike(pool: str, tmp_path: Path):
    import onnxruntime

    estimator = build(spec_with((3, 16, 16), residual=True, input_norm=True, background=3.0, pool=pool))
    estimator.export_onnx(tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    x = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)
    (scores,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(scores, estimator.scores(x), rtol=1e-3, atol=1e-4)


def test_refuses_images_that_vanish_and_what_is_no_image():
    with pytest.raises(SpecError, match=r"vanish in the network; got \[7, 9\] pixels; allowed: 8"):
        build(spec_with((1, 7, 9)))
    raw = json.loads(spec_with((1, 16, 16)).to_json())
    raw["input"] |= {"layout": "volume", "shape": [1, 16, 16, 16], "spacing_mm": None}
    with pytest.raises(SpecError, match="takes images"):
        build(DiseaseSpec.from_json(json.dumps(raw)))


@pytest.mark.parametrize("residual", [False, True])
def test_finds_a_spot_wherever_it_is(residual: bool, tmp_path: Path):
    """One bright pixel in noise, at places that training has not seen: ranked above most images without one after fifteen epochs."""
    draw = np.random.default_rng(0)
    x = draw.random((240, 1, 16, 16), dtype=np.float32) * 0.5
    labels = draw.permutation(np.arange(240) % 2)
    place = np.where(np.arange(240) < 160, draw.integers(0, 8, 240), draw.integers(8, 16, 240))  # upper half, then lower half
    x[labels == 1, 0, place[labels == 1], draw.integers(0, 16, 240)[labels == 1]] = 1.0

    def part(rows: slice) -> Samples:
        return Samples(batch=lambda r: x[rows][r], labels=labels[rows], groups=np.arange(240)[rows].astype(object))

    estimator = build(spec_with((1, 16, 16), residual=residual, maps=[8, 8], flips=False, rotation="none"))
    history = estimator.fit(part(slice(160)), part(slice(160, 240)), seed=1, checkpoint=tmp_path, on_epoch=lambda _: None)
    assert history[-1]["val_auc"] >= 0.9
