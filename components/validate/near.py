"""Pairs of samples that look alike: hashes to find them, pixels to confirm (docs/decisions/0042-near-copies.md)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from components.core.dataset import Dataset

NEAR_BITS = 7  # of 64; JPEG at quality 75 or noise of 2 grey levels changes at most 7
NEAR_PAIRS = 200_000  # closest first; the finding says when there were more
BLOCK = 1 << 20  # hash comparisons at a time
COMPARED = 4096  # values per sample that are correlated


def close_pairs(
    hashes: NDArray[np.uint64], wanted: Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
) -> tuple[NDArray[np.int64], bool]:
    """Pairs (a, b) of positions whose hashes differ in at most `NEAR_BITS` bits, closest first, at most `NEAR_PAIRS`; and whether there were more.

    With `NEAR_BITS` + 1 bands two such hashes agree in at least one band, so only hashes that share a band are compared: for n hashes about
    n * n / 64 comparisons in place of n * n / 2, in blocks of bounded memory.
    """
    width = 64 // (NEAR_BITS + 1)
    found: list[NDArray[np.int64]] = []
    held, more = 0, False
    for band in range(NEAR_BITS + 1):
        key = (hashes >> np.uint64(band * width)) & np.uint64((1 << width) - 1)
        order = np.argsort(key, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(key[order])) + 1):
            size = max(1, BLOCK // len(bucket))
            for start in range(0, len(bucket) - 1, size):
                block, later = bucket[start : start + size], bucket[start + 1 :]
                bits = np.bitwise_count(hashes[block][:, None] ^ hashes[later][None])
                i, j = np.nonzero((bits <= NEAR_BITS) & (np.arange(len(later))[None] >= np.arange(len(block))[:, None]))
                a, b = np.minimum(block[i], later[j]), np.maximum(block[i], later[j])
                keep = wanted(a, b)
                found.append(np.stack([a[keep], b[keep], bits[i, j][keep].astype(np.int64)], axis=1))
                held += len(found[-1])
                if held > 4 * NEAR_PAIRS:  # memory stays bounded however alike the data are
                    found = [_closest(found)]
                    held = len(found[0])
                    more = more or held > NEAR_PAIRS
                    if more and not found[0][-1, 2]:  # nothing can be closer than these
                        return found[0][:NEAR_PAIRS, :2], more
    pairs = _closest(found)
    return pairs[:NEAR_PAIRS, :2], more or len(pairs) > NEAR_PAIRS


def _closest(found: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Distinct pairs, closest first, at most one more than `NEAR_PAIRS`."""
    pairs = np.concatenate([*found, np.empty((0, 3), np.int64)])
    _, first = np.unique(pairs[:, 0] << 32 | pairs[:, 1], return_index=True)
    pairs = pairs[first]
    return pairs[np.argsort(pairs[:, 2], kind="stable")][: NEAR_PAIRS + 1]


def correlation(dataset: Dataset, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float32]:
    """Correlation of pairs of samples, each without its own mean and without the dataset's mean image.

    Without the mean image, two eyes photographed alike are not copies of each other.
    """
    step = max(1, int(np.prod(dataset.info["shape"])) // COMPARED)

    def planes(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        flat = dataset.read(rows).reshape(len(rows), -1)[:, ::step].astype(np.float32)
        return flat - flat.mean(axis=1, keepdims=True)

    if not len(left):
        return np.empty(0, np.float32)
    sample = np.unique(np.linspace(0, len(dataset) - 1, 2000).astype(np.int64))
    common = np.mean([planes(part).mean(axis=0) for part in np.array_split(sample, -(-len(sample) // 256))], axis=0)
    out = np.empty(len(left), np.float32)
    for start in range(0, len(left), 1024):
        a, b = planes(left[start : start + 1024]) - common, planes(right[start : start + 1024]) - common
        size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
        out[start : start + 1024] = (a * b).sum(axis=1) / np.maximum(size, 1e-6)
    return out
