"""A sample's hand-made features are its own: they do not depend on who stands beside it, else training and serving would differ."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

SHAPES = {
    "fundus28": (3, 64, 64), "lesion_abcd": (3, 64, 64), "hand28": (1, 52, 52), "gait": (9, 204), "tile_colour": (3, 48, 48),
    "volume": (1, 24, 30, 24),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_features_of_a_sample_alone_are_those_of_it_among_others(name: str) -> None:
    features = importlib.import_module(f"components.core.features.{name}").features
    x = np.random.default_rng(0).random((6, *SHAPES[name])).astype(np.float32)
    together = features(x)
    assert np.array_equal(together, np.concatenate([features(x[n : n + 1]) for n in range(len(x))]))
    assert np.array_equal(features(x[::-1]), together[::-1])
