"""Words of label columns: names, other words, numbers as people and programs write them; the same in every reader."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from components.core.dataset import Dataset
from components.core.imaging.errors import NotUsable
from components.core.labels import class_index
from components.ingest.readers.image_csv import label_rule
from components.ingest.readers.nifti_bids import label_of
from components.ingest.step import ingest
from tests.ingest.test_tables import small

SPEC = small()


@settings(max_examples=100, derandomize=True, deadline=None, database=None)
@given(st.integers(0, 99_999), st.sampled_from(["{}", "{}.0", "{}.00", "{},0", " {} ", "{}.0\t"]))
def test_a_whole_number_is_itself_however_it_is_written(index: int, form: str):
    assert class_index(form.format(index), {}) == index


@pytest.mark.parametrize("word", ["", " ", "1.5", "1.", ".0", "-1", "+1", "1e0", "1.0.0", "nan", "\u0661", "1_0", "1 0", "123456", "true"])
def test_what_is_no_whole_number_is_no_class(word: str):
    assert class_index(word, {}) is None


def test_names_go_before_numbers():
    assert class_index(" Malignant ", {"malignant": 1, "1": 0}) == 1
    assert class_index("1", {"malignant": 1, "1": 0}) == 0


@pytest.mark.parametrize("word", ["1", "1.0", "1,0", "Benign", " benign "])
def test_every_reader_reads_a_label_alike(word: str):
    assert label_rule(SPEC, ["", "label"])({"label": word}) == {"label": 1}
    assert label_of(SPEC, {"diagnosis": word.strip(), "label": word.strip(), "group": word.strip()}) == 1
    for reader in (lambda w: label_rule(SPEC, ["", "label"])({"label": w}), lambda w: label_of(SPEC, {"diagnosis": w, "label": w, "group": w})):
        with pytest.raises(NotUsable, match="a label outside the spec's classes"):
            reader("2.0")


def test_labels_that_pandas_wrote_beside_a_missing_one(tmp_path: Path):
    """0.0 and 1.0 in a table: 40 samples, and the missing one is named."""
    lines = ["patient,label,a,b", *(f"P{n},{float(n % 2)},{n},{n / 7}" for n in range(40)), "P40,,1,2"]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "table.csv").write_text("\n".join(lines))
    ingest(SPEC, str(tmp_path / "in"), dataset=tmp_path / "dataset", features=tmp_path / "features", workers=1)
    found = Dataset(tmp_path / "dataset")
    assert found.manifest["label"].value_counts().to_dict() == {0: 20, 1: 20}
    assert found.quarantine["reason"].tolist() == ["a label outside the spec's classes"]
