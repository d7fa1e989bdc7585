"""What ingest files under studies and patients: allow-lists, contradictions, and that covariates stay out of the manifest. Synthetic rows."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from components.ingest.study_facts import StudyFacts, covariates
from feature_store.views import facts_at
from tests.ingest.made import PSEUDONYMISER
from tests.ingest.test_image_csv import BY_PATIENT, make, run


@pytest.mark.parametrize(
    ("row", "age", "sex", "site"),
    [
        ({"age": "60.7", "sex": "Female", "localization": "Lower Extremity"}, 60.0, "F", "lower extremity"),
        ({"age": "97", "sex": "M", "body_site": "back"}, 90.0, "M", "back"),
        ({"age": "-1", "sex": "unknown", "localization": "unknown"}, None, None, None),
        ({"age": "nan", "sex": "Jane Doe", "localization": "Jane Doe"}, None, None, None),
        ({}, None, None, None),
    ],
)
def test_only_words_of_the_vocabulary_and_ages_up_to_ninety_pass(row: dict[str, str], age: float | None, sex: str | None, site: str | None):
    assert covariates(row) == {"cov_age_years": age, "cov_sex": sex, "cov_body_site": site}


def test_words_that_contradict_each_other_are_null_and_numbers_the_lower_median():
    facts = StudyFacts()
    for dose, kernel, sex in ((10.0, "B30f", "F"), (30.0, "B70f", "M"), (20.0, "B30f", "F"), (40.0, "B30f", "F")):
        row = {"series_id": "s", "patient_id": "p", "acq_exposure_mas": dose, "acq_kernel": kernel, "cov_sex": sex, "cov_age_years": 50.0}
        facts.take(row)
        assert not [name for name in row if name.startswith("cov_")]
    (study,), (patient,) = facts.rows().values()
    assert (study["acq_exposure_mas"], study["acq_kernel"], study["acq_kvp"]) == (20.0, None, None)
    assert (patient["age_years"], patient["sex"], patient["body_site"]) == (50.0, None, None)


def test_a_tables_covariates_reach_the_store_under_pseudonyms_and_not_the_manifest(tmp_path: Path):
    header = ["image", "label", "patient_id", "scanner", "acquired_at", "age", "sex", "localization"]
    rows = [
        [f"images/{n}.png", ["nodule", "non-nodule"][n % 2], f"Jane{n // 2}", "S1", "2024-02-29T10:00", 40 + n // 2, "female", "back"]
        for n in range(12)
    ]
    manifest = run(make(tmp_path / "in", header, rows), tmp_path, BY_PATIENT).manifest
    assert not [name for name in manifest.columns if name.startswith("cov_") or name in ("age_years", "sex")]
    got = facts_at(tmp_path / "features", "covariates", manifest)
    expected = {PSEUDONYMISER.id("patient", f"Jane{i}"): 40.0 + i for i in range(6)}
    assert list(got["age_years"]) == [expected[patient] for patient in manifest["patient_id"]]
    assert set(got["status"]) == {"ok"}
    assert set(got["body_site"]) == {"back"}
    seen = pd.read_parquet(tmp_path / "features" / "acquisition.parquet")
    assert sorted(seen["series_id"]) == sorted(manifest["series_id"])
    assert set(seen["acq_rows"]) == {50}
    assert not any(b"Jane" in file.read_bytes() for file in (tmp_path / "features").iterdir())
