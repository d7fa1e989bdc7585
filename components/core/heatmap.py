"""Where in a sample an answer comes from.

    grad-cam    from the network's last map of features: each channel counts by how the class's log-odds move when all of it rises, the sum is kept
                where it speaks for the class. For a mean-pooled map and one linear layer this is the closed form of class activation mapping.
    occlusion   parts of the sample are covered by its own blurred self; what lowers the log-odds counts. For every model, hand-made features too.

Both give values in [0, 1] on the sample's own grid, 0 where nothing speaks for the class.

Source:
    Selvaraju et al., ICCV 2017; Zhou et al., CVPR 2016; Zeiler and Fergus, ECCV 2014.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from components.core.log_odds import log_odds

FEATURES, HEAD = "features", "head.onnx"
STEP = 1e-2  # of the map's spread: small against it, large against float32
CELLS = {1: 32, 2: 12, 3: 7}
"""Parts along an axis that occlusion covers one by one: 32, 144 or 343 questions."""
CHUNK = 48
Floats = NDArray[np.float32]
Ask = Callable[[Floats], Floats]


def grad_cam(features: Floats, head: Ask, classes: Sequence[int], shape: Sequence[int]) -> Floats:
    """Heat of one sample.

    Args:
        features: (C, *places), the network's last map.
        head: (n, C, *places) -> scores (n, K).
        classes: Indices of what is explained.
        shape: The sample's own places, to which the heat is brought.
    """
    channels = len(features)
    size = STEP * max(float(features.std()), 1e-6)
    weight = np.empty(channels)
    for start in range(0, channels, CHUNK):
        chosen = np.arange(start, min(start + CHUNK, channels))
        moved = np.repeat(features[None], 2 * len(chosen), axis=0)
        moved[np.arange(len(chosen)), chosen] += size
        moved[len(chosen) + np.arange(len(chosen)), chosen] -= size
        found = log_odds(head(moved), classes)
        weight[chosen] = (found[: len(chosen)] - found[len(chosen) :]) / (2 * size)
    heat = np.maximum(np.tensordot(weight, features.astype(np.float64), axes=1), 0)
    return scaled(heat, shape)


def occlusion(x: Floats, ask: Ask, classes: Sequence[int]) -> Floats:
    """Heat of one sample, (C, *places) as the model takes it, by covering part after part."""
    places = x.shape[1:]
    cells = [min(side, CELLS[len(places)]) for side in places]
    edges = [np.linspace(0, side, n + 1).round().astype(int) for side, n in zip(places, cells, strict=True)]
    covered = _blurred(x)
    whole = float(log_odds(ask(x[None]), classes)[0])
    drop = np.zeros(cells)
    indices = list(np.ndindex(*cells))
    for start in range(0, len(indices), CHUNK):
        part = indices[start : start + CHUNK]
        batch = np.repeat(x[None], len(part), axis=0)
        for n, cell in enumerate(part):
            where = (n, slice(None), *(slice(edges[a][i], edges[a][i + 1]) for a, i in enumerate(cell)))
            batch[where] = covered[where[1:]]
        found = log_odds(ask(batch), classes)
        for cell, value in zip(part, found, strict=True):
            drop[cell] = whole - value
    return scaled(np.maximum(drop, 0), places)


def scaled(heat: NDArray[np.floating], shape: Sequence[int]) -> Floats:
    """To `shape`, linearly between the middles of the cells, and to at most 1."""
    out = np.asarray(heat, dtype=np.float64)
    for axis, side in enumerate(shape):
        n = out.shape[axis]
        at = np.clip((np.arange(side) + 0.5) * n / side - 0.5, 0, n - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, n - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(out.ndim)])
        out = np.take(out, low, axis) * (1 - share) + np.take(out, high, axis) * share
    top = float(out.max()) if out.size else 0.0
    return (out / top if top > 0 else out).astype(np.float32)


def _blurred(x: Floats) -> Floats:
    """Each channel smoothed over about a quarter of each side, so that what covers has the sample's own level and no detail."""
    out = np.asarray(x, dtype=np.float64)
    for axis in range(1, x.ndim):
        width = max(1, x.shape[axis] // 4)
        padded = np.concatenate([np.repeat(np.take(out, [0], axis), width, axis), out, np.repeat(np.take(out, [-1], axis), width, axis)], axis)
        total = np.cumsum(padded, axis)
        zero = np.zeros_like(np.take(total, [0], axis))
        total = np.concatenate([zero, total], axis)
        side = x.shape[axis]
        out = (np.take(total, np.arange(side) + 2 * width + 1, axis) - np.take(total, np.arange(side), axis)) / (2 * width + 1)
    return out.astype(np.float32)
