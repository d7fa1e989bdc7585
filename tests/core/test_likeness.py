"""The distance of a sample from many others: known values, and what must not change it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.core.errors import DataError
from components.core.likeness import LEAST, LEAST_GROUPS, Likeness

SETTINGS = settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d))


def fitted(x: np.ndarray, *, groups: int = 40, devices: int = 1, level: float = 0.95, floor: float | np.ndarray = 1e-9) -> Likeness:
    n = len(x)
    found = Likeness.fit(
        [f"f{k}" for k in range(x.shape[1])], x, [str(k % groups) for k in range(n)], [str(k % groups % devices) for k in range(n)],
        floor=np.broadcast_to(np.asarray(floor, dtype=float), x.shape[1:]), level=level,
    )  # fmt: skip
    assert found is not None
    return found


def test_distance_is_mahalanobis_where_there_are_many_rows() -> None:
    """Against the inverse covariance, to the 1 % that the ridge costs."""
    x = np.random.default_rng(0).normal(size=(20_000, 4)) @ np.array([[1, 0.5, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0.2], [0, 0, 0, 1]])
    found, y = fitted(x, groups=2000), 3 * x[:50]
    offsets = y - x.mean(axis=0)
    want = np.sqrt(np.einsum("ni,ij,nj->n", offsets, np.linalg.inv(np.cov(x.T)), offsets) / 4)
    assert np.allclose(found.distance(y), want, rtol=0.05)
    assert float((found.distance(x) > found.limit).mean()) < 0.05


def test_figures_that_are_possible_alone_are_outside_together() -> None:
    """Two figures that always go together: each value is common, their combination never was."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=400)
    found = fitted(np.stack([a, a + 0.05 * rng.normal(size=400)], 1))
    inside, outside = found.distance(np.array([[1.5, 1.5], [1.5, -1.5]]))
    assert inside < found.limit < outside


def test_the_nearest_device_counts() -> None:
    """Two devices far apart: what lies between them is of neither."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 2))
    x[1::2] += 30
    found = fitted(x, devices=2)
    assert len(found.centres) == 2
    near, other, between = found.distance(np.array([[0.0, 0], [30, 30], [15, 15]]))
    assert max(near, other) < found.limit < between


def test_fewer_groups_make_a_wider_limit() -> None:
    """The same rows, told to be of fewer and fewer people."""
    x = rows(240, 3)
    limits = [fitted(x, groups=n).limit for n in (5, 15, 120)]
    assert limits[0] > limits[1] > limits[2] * 0.9
    for n, groups in ((LEAST - 1, LEAST - 1), (LEAST, LEAST_GROUPS - 1)):
        assert Likeness.fit(["a"], x[:n, :1], [str(k % groups) for k in range(n)], [""] * n, floor=np.ones(1), level=0.9) is None


@SETTINGS
@given(st.integers(2, 6), st.integers(0, 2**31), st.data())
def test_order_of_figures_and_their_units_change_nothing(d: int, seed: int, data: st.DataObject) -> None:
    """Distance over limit is the same after figures change places, unit and zero."""
    x, y = rows(200, d, seed), rows(20, d, seed + 1) * 2
    order = np.array(data.draw(st.permutations(range(d))))
    scale = 10.0 ** np.array(data.draw(st.lists(st.floats(-3, 3), min_size=d, max_size=d)))
    sign = np.array(data.draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=d, max_size=d)))
    floor = np.full(d, 1e-3)
    one, other = fitted(x, floor=floor), fitted((x * scale * sign + 7 * scale)[:, order], floor=(floor * scale)[order])
    moved = (y * scale * sign + 7 * scale)[:, order]
    assert np.allclose(one.distance(y) / one.limit, other.distance(moved) / other.limit, rtol=1e-4)


@SETTINGS
@given(st.integers(1, 5), st.integers(0, 2**31), st.floats(1.0, 1e6))
def test_farther_is_never_nearer(d: int, seed: int, factor: float) -> None:
    """Along a ray from the only centre the distance grows with its length."""
    found = fitted(rows(100, d, seed))
    away = rows(1, d, seed + 1)
    centre = found.centres[0] * found.scale
    near, far = found.distance(np.concatenate([centre + away, centre + factor * away]))
    assert far >= near * (1 - 1e-9)


@SETTINGS
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=3, max_size=3))
def test_what_is_not_finite_is_outside_and_no_distance_is_nan(row: list[float]) -> None:
    found = fitted(rows(100, 3))
    (distance,) = found.distance(np.array([row]))
    assert not np.isnan(distance)
    if not np.isfinite(row).all():
        assert distance == np.inf


@SETTINGS
@given(st.integers(1, 5), st.integers(0, 2**31))
def test_shares_sum_to_the_squared_distance(d: int, seed: int) -> None:
    found, row = fitted(rows(100, d, seed)), rows(1, d, seed + 1)
    shares, offsets = found.shares(row[0])
    assert np.isclose(shares.sum() / d, found.distance(row)[0] ** 2)
    assert offsets.shape == (d,)


def test_a_stored_measure_is_the_same_one_and_a_wrong_one_is_refused() -> None:
    found, y = fitted(rows(200, 5), devices=2), rows(30, 5, 9)
    raw = found.to_dict()
    back = Likeness.from_json(json.dumps(raw), where="x")
    assert np.allclose(back.distance(y), found.distance(y), rtol=1e-6)
    assert (back.names, back.n, back.groups) == (found.names, 200, 40)
    broken = (
        {"limit": 0}, {"limit": float("nan")}, {"scale": [1, 2]}, {"scale": [0, 1, 1, 1, 1]}, {"centres": []}, {"names": []},
        {"whitening": [[1]] * 5}, {"whitening": [[0], [1, 1], [1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1, 1]]},
    )  # fmt: skip
    for change in broken:
        with pytest.raises(DataError, match="not a measure"):
            Likeness.from_dict(raw | change, where="x")
    for text in ("", "[]", "{}", "null", '{"names": 3}'):
        with pytest.raises(DataError, match="not a measure"):
            Likeness.from_json(text, where="x")


def test_the_same_rows_give_the_same_measure() -> None:
    assert fitted(rows(100, 3)).to_dict() == fitted(rows(100, 3)).to_dict()
