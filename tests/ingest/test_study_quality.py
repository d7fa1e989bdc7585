"""Image quality of studies: each row is the lower median of the figures of the study's samples, whatever the order in which they were measured."""

from __future__ import annotations

from pathlib import Path
from statistics import median_low

import numpy as np
import pytest

from components.core import image_quality
from components.core.dataset import Dataset
from components.core.errors import DataError
from components.ingest.measure import StudyQuality
from components.ingest.step import ingest
from feature_store.views import facts_at
from pipelines import catalog
from tests.ingest.made import KEY, collection, lung_nodule, marks


@pytest.fixture
def ingested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DXFLOW_KEY", KEY)
    source = collection(tmp_path / "in", patients=12, slices=5)
    for p in range(12):  # three nodules a series instead of one
        nodules = [(k, 20 + 5 * k, 34, 6, [1, 2, 1, 2] if p % 2 else [4, 5, 5, 4]) for k in (1, 2, 3)]
        (source / f"p{p:03d}" / "marks.xml").write_text(marks(f"1.2.3.{p + 1}", nodules))
    ingest(lung_nodule(), str(source), dataset=tmp_path / "out", features=tmp_path / "features", workers=1)
    return Dataset(tmp_path / "out")


def test_a_study_has_the_figures_computed_directly_from_its_samples(ingested: Dataset, tmp_path: Path) -> None:
    """Studies of all splits, test too, dated as `acquisition` dates them."""
    rows, spec = ingested.manifest, lung_nodule()
    found = facts_at(tmp_path / "features", "image_quality", rows)
    acquired = facts_at(tmp_path / "features", "acquisition", rows)
    assert set(rows["split"]) == {"train", "val", "test"}
    assert (set(found["status"]), found["age_days"].tolist()) == ({"ok"}, acquired["age_days"].tolist())
    own = image_quality.figures(ingested.read(np.arange(len(rows))), spec)
    several = 0
    for study in rows["series_id"].unique():
        of = np.flatnonzero(rows["series_id"] == study)
        several += len(of) > 1
        for name in image_quality.names(spec):
            assert set(found[name].iloc[of]) == {median_low(own[name][of].tolist())}, name
    assert several == 12
    assert found["blockiness"].notna().all()
    assert found["red_green"].isna().all()  # no such figure of one channel


def test_any_order_of_measuring_gives_the_same_figures_and_nothing_is_held_for_finished_studies() -> None:
    rng = np.random.default_rng(0)
    studies = [f"s{n}" for n in rng.integers(0, 9, 100)] + [None]
    spec = catalog.load("skin-lesion")
    figures = rng.normal(size=(101, len(image_quality.names(spec))))
    answers = []
    for order in (np.arange(101), rng.permutation(101)):
        quality = StudyQuality(spec)
        quality.expect(studies)
        for part in np.array_split(order, 7):
            quality.take([studies[n] for n in part], figures[part])
        answers.append(quality.of_studies())
        assert not quality._open
        assert not quality._left
    assert answers[0] is not None
    assert answers[0] == answers[1]
    of = [n for n, study in enumerate(studies) if study == "s3"]
    assert answers[0]["s3"]["mean"] == median_low(figures[of, 0].tolist())


def test_a_table_has_no_image_quality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DXFLOW_KEY", KEY)
    spec = catalog.load("breast-cytology")
    ingest(spec, "package:sklearn/datasets/data/breast_cancer.csv", dataset=tmp_path / "out", features=tmp_path / "features", workers=1)
    with pytest.raises(DataError, match="no view 'image_quality'"):
        facts_at(tmp_path / "features", "image_quality", Dataset(tmp_path / "out").manifest)
