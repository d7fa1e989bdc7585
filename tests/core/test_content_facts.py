"""What ingest notes of a sample's pixels: a hash, a hash that survives brightness, the share of the commonest value."""

from __future__ import annotations

import numpy as np
import pytest

from components.core.dataset_writer import content_facts, near_hash

SHAPES = ((3, 48, 48), (3, 256, 256), (28, 28, 3), (30,), (1, 1), (8, 9), (7, 9), (2000, 30))


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_are_counted_as_other_numbers_are(shape: tuple[int, ...]):
    """Bytes take shorter ways to the same facts."""
    pixels = np.random.default_rng(0).integers(0, 20, shape, dtype=np.uint8)
    counted, sorted_ = content_facts(pixels), content_facts(pixels.astype(np.int16))
    assert (counted["near_hash"], counted["constant_share"]) == (sorted_["near_hash"], sorted_["constant_share"])
    assert counted["constant_share"] == np.bincount(pixels.ravel()).max() / pixels.size


def test_the_near_hash_of_a_ramp_is_known():
    """Brighter to the right: every block is above its left neighbour; a mirror image: none is."""
    ramp = np.tile(np.arange(0, 144, 2, dtype=np.uint8), (64, 1))
    assert near_hash(ramp) == "f" * 16
    assert near_hash(ramp[:, ::-1]) == "0" * 16
    assert near_hash(ramp // 2 + 40) == near_hash(ramp)


def test_facts_do_not_depend_on_the_layout_in_memory():
    pixels = np.random.default_rng(1).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    assert content_facts(pixels.transpose(2, 0, 1)) == content_facts(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
