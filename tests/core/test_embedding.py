"""Embeddings in a few numbers: known directions, a round trip, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from components.core.embedding import MOST, Projection
from components.core.errors import DataError


def test_known_directions_come_out_with_spread_one() -> None:
    """Spread 3 along (0.6, 0.8) and 1 across it, about (10, -5): both are found, the larger first, scaled to 1."""
    rng = np.random.default_rng(0)
    along, across = np.array([0.6, 0.8]), np.array([-0.8, 0.6])
    x = np.array([10.0, -5.0]) + 3 * rng.standard_normal((4000, 1)) * along + rng.standard_normal((4000, 1)) * across
    projection = Projection.fit(x)
    assert projection is not None
    assert projection.names == ("embedding_1", "embedding_2")
    unit = projection.directions / np.linalg.norm(projection.directions, axis=1, keepdims=True)
    assert abs(unit[0] @ along) > 0.999
    columns = projection.columns(list(x))
    assert [float(np.std(c, ddof=1)) for c in columns.values()] == pytest.approx([1, 1])
    assert [float(np.mean(c)) for c in columns.values()] == pytest.approx([0, 0], abs=1e-9)
    assert float(np.corrcoef(*columns.values())[0, 1]) == pytest.approx(0, abs=1e-9)


def test_at_most_eight_and_none_of_noise_beside_a_signal() -> None:
    rng = np.random.default_rng(1)
    many = Projection.fit(rng.standard_normal((500, 40)))
    assert many is not None
    assert len(many.names) == MOST
    one = Projection.fit(np.outer(rng.standard_normal(500), np.ones(40)) + 1e-3 * rng.standard_normal((500, 40)))
    assert one is not None
    assert len(one.names) == 1


def test_nothing_varies_or_nearly_nothing_is_there() -> None:
    assert Projection.fit(np.ones((10, 3))) is None
    assert Projection.fit(np.eye(2)) is None


def test_what_has_no_usable_embedding_is_missing() -> None:
    projection = Projection.fit(np.random.default_rng(2).standard_normal((50, 3)))
    assert projection is not None
    columns = projection.columns([None, np.zeros(4, np.float32), np.array([0, np.nan, 0]), projection.mean])
    for values in columns.values():
        assert np.isnan(values[:3]).all()
        assert values[3] == pytest.approx(0)


def test_a_round_trip_and_other_files() -> None:
    projection = Projection.fit(np.random.default_rng(3).standard_normal((50, 3)))
    assert projection is not None
    again = Projection.from_json(projection.to_json(), where="x")
    assert np.allclose(again.directions, projection.directions, rtol=1e-8)
    assert np.allclose(again.mean, projection.mean, rtol=1e-8)
    for text in (
        "",
        "[]",
        '{"mean": [1]}',
        '{"mean": [1, 2], "directions": [[1]]}',
        '{"mean": [1], "directions": []}',
        '{"mean": [1], "directions": [[NaN]]}',
    ):
        with pytest.raises(DataError, match="not a projection"):
            Projection.from_json(text, where="x")
