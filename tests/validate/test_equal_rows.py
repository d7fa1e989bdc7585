"""Tables: persons who share a few numbers are no copies of each other, rows of many measurements that agree are."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from components.core.dataset_writer import content_facts
from components.core.errors import DataError
from components.ingest.step import ingest
from components.validate.detail import COPY_BITS, telling
from components.validate.step import validate
from tests.ingest.test_tables import small


def men(n: int, seed: int = 0) -> NDArray[np.float64]:
    """(n, 3) age, PSA and volume of the prostate, as urologists write them down."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.integers(55, 78, n).astype(float), np.round(rng.lognormal(1.7, 0.4, n), 1), np.round(rng.normal(50, 8, n))])


def found(values: NDArray[np.float64], folder: Path, patients: list[str] | None = None) -> dict[str, Any]:
    """The checks by id, after ingest of a table with these features."""
    names = [f"x{k}" for k in range(values.shape[1])]
    lines = [",".join(["patient", "label", *names])]
    patients = patients or [f"P{i}" for i in range(len(values))]
    lines += [",".join([who, str(i % 2), *map(repr, row.tolist())]) for i, (who, row) in enumerate(zip(patients, values, strict=True))]
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "cases.csv").write_text("\n".join(lines) + "\n")
    spec = small(values.shape[1])
    ingest(spec, str(folder / "in"), dataset=folder / "dataset", features=folder / "features", workers=1)
    with suppress(DataError):  # the page is written first
        validate(spec, dataset=folder / "dataset", out=folder / "out")
    return {c["id"]: c for c in json.loads((folder / "out" / "validation.json").read_text())["checks"]}


def test_men_with_the_same_three_numbers_are_no_copies(tmp_path: Path):
    """1,500 men: some share age, PSA and volume across the splits, and no check takes that for a leak; the number is told."""
    values = men(1500)
    equal = len(values) - len(np.unique(values, axis=0))
    assert equal > 5
    checks = found(values, tmp_path)
    assert {name: checks[name]["status"] for name in ("copies_across", "copies_within", "contradictions")} == {
        "copies_across": "pass", "copies_within": "pass", "contradictions": "pass",
    }  # fmt: skip
    assert "rows equal others, of values that many rows share" in checks["copies_across"]["seen"]
    assert "near_copies" not in checks
    assert "not_blank" not in checks


def test_a_row_of_thirty_measurements_twice_is_a_copy(tmp_path: Path):
    """The same aspirate under two ids, in training and test."""
    values = np.random.default_rng(1).normal(100, 20, (300, 30)).round(3)
    values[150:] = values[:150]
    checks = found(values, tmp_path)
    assert checks["copies_across"]["status"] == "fail"
    assert checks["copies_across"]["figures"]["copies"] > 20
    assert checks["contradictions"]["status"] == "pass"


def test_rows_of_one_person_stay_on_one_side(tmp_path: Path):
    """Groups are kept apart by their ids, whatever the values."""
    checks = found(men(400), tmp_path, [f"P{i // 2}" for i in range(400)])
    assert checks["groups_apart"]["status"] == "pass"


@pytest.mark.parametrize("columns", [1, 2])
def test_a_table_of_one_or_two_columns_is_not_blank(columns: int, tmp_path: Path):
    """Rows whose values are all one value are rows: nothing was badly decoded."""
    values = np.repeat(np.arange(200.0)[:, None] % 40, columns, axis=1)
    checks = found(values, tmp_path)
    assert not {"mostly_not_blank", "not_blank"} & checks.keys()
    assert checks["copies_across"]["status"] == "pass"


@settings(max_examples=8, derandomize=True, deadline=None, database=None)
@given(st.integers(1, 60), st.integers(2, 200), st.integers(0, 2**31))
def test_detail_is_that_of_the_values_that_a_row_holds(columns: int, kinds: int, seed: int):
    """Rows drawn from `kinds` values a column: equal ones are copies where columns x log2(kinds) reaches the limit, to within what chance does."""
    values = np.random.default_rng(seed).integers(0, kinds, (1000, columns)).astype(np.float32)
    values[0] = values[1]
    bits = columns * np.log2(kinds)
    copies = telling(values, pd.Series([content_facts(row)["content_hash"] for row in values]))[:2]
    assert copies[0] == copies[1]
    if abs(bits - COPY_BITS) > 0.25 * COPY_BITS:
        assert copies[0] == (bits > COPY_BITS)
