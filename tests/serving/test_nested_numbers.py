"""Numbers in JSON: the array that NumPy would make, or one line, and never more memory than what was sent."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import hypothesis.strategies as st
import numpy as np
import orjson
import pytest
from hypothesis import given, settings

from components.core.errors import DataError
from components.core.pseudonym import Pseudonymiser
from serving import queries
from serving.nested_numbers import array_of
from tests.serving.small_package import lung_nodule

SPEC = lung_nodule()
SIZE = int(np.prod(SPEC.input.shape))
PSEUDONYMISER = Pseudonymiser(b"a key of the tests only")
LONG = "x" * 100_000


def asked(version: str, values: Any) -> None:
    """A request of either protocol, as the server reads it."""
    values = orjson.loads(json.dumps(values))
    if version == "v1":
        queries.from_document({"instances": [{"array": values}]}, SPEC, PSEUDONYMISER)
    else:
        queries.from_tensor([1, *SPEC.input.shape], "FP32", values, None, {}, SPEC, PSEUDONYMISER)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([LONG, *[0] * 10_000], "not numbers only"),
        ([[LONG], *[[0]] * 10_000], "not numbers only"),
        ([*[[0] * 100] * 99, [*[0] * 99, LONG]], "not numbers only"),
        ([0.5, True, 1.0], "not numbers only"),
        ([None] * 9, "not numbers only"),
        ([{}], "not numbers only"),
        ([[1], [2, 3]], "lists of unequal length"),
        ([[1], 2], "lists of unequal length"),
        ([1, [2]], "lists of unequal length"),
        ([[[[[[[[[1]]]]]]]]], "another shape; got more than 8 axes"),
        ([0] * 100_000, "another number of values than its shape; got 100000; allowed: 2704"),
    ],
)
def test_what_is_no_array_of_numbers_is_one_line_and_costs_no_memory(version: str, values: Any, reason: str):
    """100 kB of text among 10,000 zeros made NumPy ask for 4 GB: every element as wide as the text."""
    with pytest.raises(DataError, match=reason):
        asked(version, values)
    tracemalloc.start()
    with pytest.raises(DataError):
        asked(version, values)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20


def nested(leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(st.lists(leaf, max_size=4), lambda inner: st.lists(inner | leaf, max_size=4), max_leaves=24)


def plain(values: Any) -> bool:
    """Whether all leaves are numbers, by walking."""
    return all(plain(v) for v in values) if isinstance(values, list) else type(values) in (int, float)


@settings(max_examples=400, derandomize=True, deadline=None, database=None)
@given(nested(st.integers(-(2**60), 2**60) | st.floats(-1e6, 1e6) | st.sampled_from([True, None, "1", {}])))
def test_lists_become_what_numpy_makes_of_them_or_are_refused(values: Any):
    try:
        expected = np.array(values, dtype=np.float64).astype(np.float32) if plain(values) else None
    except ValueError:  # ragged
        expected = None
    try:
        found = array_of(values, "here", 1000)
    except DataError:
        assert expected is None
    else:
        assert expected is not None
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)
