"""Heat-maps: they point where a model looks that was built to look there, and nowhere else."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from components.core.imaging.augment import Augment
from components.core.log_odds import log_odds
from components.core.models.samples import Samples
from components.core.models.torch_fit import TorchEstimator, Training
from components.core.spec import DiseaseSpec
from components.evaluate import heatmap

SIDE = 32
SPEC = DiseaseSpec.model_validate(
    {
        "name": "corner",
        "title": "Corner",
        "sources": ["none"],
        "input": {"modality": "image", "reader": "image-csv", "layout": "image", "shape": [1, SIDE, SIDE], "range": [0, 1]},
        "target": {"kind": "binary", "classes": ["dark", "bright"], "positive": "bright", "source": "drawn"},
        "device": {"key": ["device"]},
        "split": {"grouping": "patient"},
        "families": {"net": {"kind": "small-cnn"}},
        "default_family": "net",
    }
)
X = np.random.default_rng(0).uniform(0.4, 0.6, (4, 1, SIDE, SIDE)).astype(np.float32)
X[:, :, :8, 24:] = 1.0  # the upper right corner is bright, and so is the lower left one
X[:, :, 24:, :8] = 1.0


class UpperRight(nn.Module):
    """Its score is the mean brightness of the upper right quarter, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.AvgPool2d(4)
        self.weight = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        looked_at = self.maps(x * self.weight)[:, 0, :4, 4:].mean(dim=(1, 2))
        return torch.stack([torch.full_like(looked_at, 0.7), looked_at], dim=1)


class Scorer:
    """The same without torch."""

    def scores(self, x: np.ndarray) -> np.ndarray:
        looked_at = 3 * x[:, 0, :16, 16:].mean((1, 2))
        return np.stack([np.full_like(looked_at, 0.7), looked_at], axis=1)


def network() -> TorchEstimator:
    return TorchEstimator(SPEC, SPEC.families["net"], UpperRight, training=Training(), augment=Augment())


@pytest.mark.parametrize("estimator", [network(), Scorer()], ids=["gradient", "occlusion"])
def test_the_map_peaks_in_the_corner_that_the_model_looks_at(estimator: Any):
    maps = heatmap.attribution(SPEC, estimator, X, (1,))
    assert maps.shape == (4, SIDE, SIDE)
    for one in maps:
        row, column = np.unravel_index(one.argmax(), one.shape)
        assert row < 12
        assert column >= 20
        assert one[20:, :].max() < 0.05 * one.max()  # the other bright corner means nothing to it


def test_the_shares_add_up_to_the_score_less_its_constant():
    """Gradient times map, behind a linear head: a sum over 8 x 8 places; interpolation to 32 x 32 repeats each about 16 times."""
    estimator = network()
    maps = heatmap.attribution(SPEC, estimator, X, (1,))
    score = log_odds(estimator.scores(X), (1,))
    np.testing.assert_allclose(maps.sum((1, 2)) / 16, score + 0.7, rtol=0.03)


def test_the_other_class_is_spoken_for_by_nothing():
    """The first class's score is a constant, so no place raises it."""
    assert heatmap.attribution(SPEC, network(), X, (0,)).max() == 0


def test_pictures_show_hits_misses_and_false_alarms():
    samples = Samples(batch=lambda rows: X[rows], labels=np.array([1, 1, 0, 0]), groups=np.arange(4).astype(object))
    rows = pd.DataFrame({"sample_id": list("abcd")})
    made = heatmap.pictures(SPEC, network(), samples, rows, np.array([True, True, False, False]), np.array([0.9, 0.2, 0.6, 0.1], np.float32))
    assert [one.words for one in made] == [
        "p = 0.90, true: bright",
        "p = 0.20, true: bright",
        "p = 0.60, true: not bright",
        "p = 0.10, true: not bright",
    ]
    picture = Image.open(io.BytesIO(base64.b64decode(made[0].overlay.removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (heatmap.PIXELS, heatmap.PIXELS)
    colour = np.asarray(picture, dtype=int)
    redder = colour[..., 0] - colour[..., 2]
    assert redder[:20, -20:].mean() > 100
    assert abs(redder[-20:, :20]).max() < 12
