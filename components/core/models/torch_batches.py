"""Batches and seeds of a training: each purpose and epoch has its own, so a resumed training needs no generator state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from components.core.models.samples import Samples


def mixed_seed(seed: int, epoch: int, purpose: str) -> int:
    """A seed of its own for each purpose and epoch."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{epoch}/{purpose}".encode()).digest()[:7], "big")


def ahead(samples: Samples, batches: list[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Each batch and its row numbers; the next one is read while the caller works."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(samples.batch, batches[0])
        for rows, after in zip(batches, [*batches[1:], None], strict=True):
            x = coming.result()
            if after is not None:
                coming = pool.submit(samples.batch, after)
            yield x, rows
