"""What evaluate, register and replay are told of a patient: missing, null and stale are not told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd

from components.core.covariates import MAX_AGE_DAYS, NAMES
from feature_store.covariates import told
from feature_store.store import write_profiles

THEN = datetime(2021, 3, 1, tzinfo=UTC)


def test_missing_null_and_stale_have_no_entry_and_nothing_is_read_where_none_is_named(tmp_path: Path):
    rows = [
        {"patient_id": "p1", "event_timestamp": THEN, "age_years": 63.0, "sex": "F", "body_site": None},
        {"patient_id": "p2", "event_timestamp": None, "age_years": None, "sex": "M", "body_site": "back"},
    ]
    write_profiles(tmp_path / "f", [], views={"covariates": rows})
    times = [THEN + timedelta(days=1), THEN + timedelta(days=MAX_AGE_DAYS + 1), THEN - timedelta(days=1), THEN, THEN]
    manifest = pd.DataFrame({"patient_id": ["p1", "p1", "p1", "p2", "p3"], "acquired_at": times}, index=[7, 5, 3, 2, 1])
    one, stale, before, undated, unknown = told(tmp_path / "f", manifest, NAMES)
    assert one == {"age_years": 63.0, "sex": "F"}
    assert stale == before == unknown == {}  # too old, told only later, never told
    assert undated == {"sex": "M", "body_site": "back"}
    assert told(tmp_path / "f", manifest, ["sex"])[0] == {"sex": "F"}
    assert told(tmp_path / "absent", manifest, []) == [{}] * 5
