"""The views of studies and patients: as of the sample's time, each sample once, missing and stale told apart. Synthetic rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core.errors import DataError
from feature_store.store import write_profiles
from feature_store.views import facts_at

THEN, LATER = pd.Timestamp("2020-01-01", tz="UTC"), pd.Timestamp("2021-01-01", tz="UTC")
PATIENTS = [
    {"patient_id": "p1", "event_timestamp": THEN, "age_years": 60.0, "sex": "F"},
    {"patient_id": "p1", "event_timestamp": LATER, "age_years": 61.0, "sex": "F"},
    {"patient_id": "p2", "event_timestamp": None, "age_years": None, "sex": "M", "body_site": "back"},
]
STUDIES = [{"series_id": "s1", "event_timestamp": THEN, "acq_kvp": 120.0, "acq_kernel": "B30f", "acq_rows": 512}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_profiles(tmp_path / "f", [], views={"covariates": PATIENTS, "acquisition": STUDIES, "image_quality": []})
    return tmp_path / "f"


def asked(key: str, *samples: tuple[str | None, str | None]) -> pd.DataFrame:
    table = pd.DataFrame({key: [k for k, _ in samples], "acquired_at": pd.to_datetime([t for _, t in samples], utc=True)})
    table.index = pd.Index(range(70, 70 + len(table)))
    return table


def test_each_sample_gets_what_held_when_it_was_acquired(folder: Path) -> None:
    samples = asked(
        "patient_id", ("p1", "2021-06-01"), ("p1", "2019-01-01"), ("p2", "2020-02-01"), ("p1", "2020-02-01"), ("nobody", "2020-02-01"),
        ("p1", None), (None, "2020-02-01"), ("p1", "2021-06-01"),
    )  # fmt: skip
    got = facts_at(folder, "covariates", samples)
    assert list(got.index) == list(samples.index)
    assert list(got["status"]) == ["ok", "missing", "ok", "ok", "missing", "ok", "missing", "ok"]
    np.testing.assert_array_equal(got["age_years"].astype(float), [61, np.nan, np.nan, 60, np.nan, 61, np.nan, 61])
    assert list(got["sex"].fillna("-")) == ["F", "-", "M", "F", "-", "F", "-", "F"]


def test_stale_is_not_missing_and_what_has_no_date_does_not_age(folder: Path) -> None:
    """366 days from 2020-01-01 to 2021-01-01: within 366, not within 365."""
    samples = asked("series_id", ("s1", "2021-01-01"), ("s2", "2021-01-01"), ("s1", None))
    for limit, status in ((366.0, "ok"), (365.0, "stale")):
        got = facts_at(folder, "acquisition", samples, max_age_days=limit)
        assert list(got["status"]) == [status, "missing", "ok"]
        assert got["acq_kernel"].iloc[0] == "B30f"
        np.testing.assert_array_equal(got["age_days"], [366, np.nan, np.nan])
    undated = facts_at(folder, "covariates", asked("patient_id", ("p2", "2021-01-01")), max_age_days=1)
    assert list(undated["status"]) == ["ok"]


def test_no_sample_is_lost_among_twenty_thousand(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"series_id": f"s{i:03d}", "event_timestamp": THEN, "acq_kvp": float(i)} for i in range(200)]
    write_profiles(tmp_path / "f", [], views={"acquisition": rows})
    of = np.random.default_rng(0).integers(0, 200, 20_000)
    got = facts_at(tmp_path / "f", "acquisition", pd.DataFrame({"series_id": [f"s{i:03d}" for i in of], "acquired_at": LATER}))
    np.testing.assert_array_equal(got["acq_kvp"], of)
    assert set(got["status"]) == {"ok"}


def test_an_empty_view_answers_missing_and_an_absent_one_is_an_error(folder: Path, tmp_path: Path) -> None:
    assert list(facts_at(folder, "image_quality", asked("series_id", ("s1", None)))["status"]) == ["missing"]
    write_profiles(tmp_path / "old", [])
    with pytest.raises(DataError, match=r"no view 'covariates'"):
        facts_at(tmp_path / "old", "covariates", asked("patient_id", ("p1", None)))
    with pytest.raises(DataError, match="no such view"):
        facts_at(folder, "names", asked("patient_id", ("p1", None)))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"patient_id": "p1", "event_timestamp": THEN}, "two rows of one key"),
        ({"patient_id": "p9", "name": "x"}, "no such feature"),
        ({"event_timestamp": THEN}, "without its key"),
    ],
)
def test_rows_that_cannot_be_told_apart_or_are_not_of_the_view_are_refused(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        write_profiles(tmp_path / "f", [], views={"covariates": [*PATIENTS, row]})
    assert not (tmp_path / "f").exists()


def test_the_same_rows_in_any_order_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_profiles(tmp_path / "again", [], views={"covariates": PATIENTS[::-1], "acquisition": STUDIES, "image_quality": []})
    for name in ("covariates.parquet", "acquisition.parquet"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_writing_views_imports_no_feast(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from feature_store.store import write_profiles\n"
    program += "write_profiles(Path(sys.argv[1]), [], views={'covariates': [{'patient_id': 'p'}]}); assert 'feast' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "f")], check=True)
