"""Tables: scikit-learn's own real data, a CSV with a header, and everything that may be wrong with one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.package_data import local_path
from components.core.spec import DiseaseSpec
from components.ingest.source import open_source
from components.ingest.step import ingest
from pipelines.sources import source_digest
from tests.ingest.made import PSEUDONYMISER, ROOT

REAL = "package:sklearn/datasets/data/breast_cancer.csv"


def cytology(**changes: dict[str, Any]) -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "breast-cytology.toml").model_dump(mode="json")
    for part, values in changes.items():
        raw[part] = {**raw[part], **values}
    return DiseaseSpec.model_validate(raw)


def small(shape: int = 2, **changes: dict[str, Any]) -> DiseaseSpec:
    own = {"reader": "table-csv", "shape": [shape], "range": [-5000, 5000], **changes.pop("input", {})}
    return cytology(**{"input": own, "split": {"folds": 1}, "limits": {"quarantine_share": 1}, **changes})


def run(source: str | Path, out: Path, spec: DiseaseSpec) -> Dataset:
    ingest(spec, str(source), dataset=out / "dataset", features=out / "features", workers=1)
    return Dataset(out / "dataset")


def table(folder: Path, header: list[str], rows: list[list[object]]) -> Path:
    folder.mkdir()
    with open(folder / "table.csv", "w", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    return folder


def plain(n: int = 20) -> list[list[object]]:
    """patient, diagnosis, a, b: each number can be read off its row."""
    return [[f"Jane{k}", ["malignant", "benign"][k % 2], k + 0.5, -k / 7] for k in range(n)]


HEADER = ["patient_id", "label", "radius", "texture"]


def test_breast_cancer_of_scikit_learn_is_what_scikit_learn_loads(tmp_path: Path):
    """569 cases, 212 malignant, 30 features, each value exact; every case is test in one of ten folds."""
    from sklearn.datasets import load_breast_cancer

    found = run(REAL, tmp_path, cytology())
    features, target = load_breast_cancer(return_X_y=True)
    rows = found.manifest.set_index("sample_id")
    order = [rows.index.get_loc(PSEUDONYMISER.id("sample", "breast_cancer.csv", str(n + 2))) for n in range(569)]
    assert np.array_equal(found.read(np.array(order)), features.astype(np.float32))
    assert np.array_equal(rows["label"].to_numpy()[order], target)
    assert (int((rows["label"] == 0).sum()), len(set(rows["group_id"])), len(found.quarantine)) == (212, 569, 0)
    assert sorted(set(rows["fold"])) == list(range(10))


def test_a_value_outside_the_range_of_the_spec_is_no_sample(tmp_path: Path):
    """As at the server, which gives such a row no decision: 300 is the end of the range, 99999 and -1 are beyond it."""
    rows = [*plain(8), ["Jane8", "benign", 300, 1], ["Jane9", "benign", 99999, 1], ["Jane10", "malignant", -1, 1]]
    rows = [[name, label, a, abs(b)] for name, label, a, b in rows]
    found = run(table(tmp_path / "source", HEADER, rows), tmp_path, small(input={"range": [0, 300]}))
    assert (len(found.manifest), found.quarantine["reason"].tolist()) == (9, ["a value outside input.range"] * 2)


def test_package_source_is_listed_digested_and_kept_inside_its_package():
    assert [item.path for item in open_source(REAL).items] == ["breast_cancer.csv"]
    assert source_digest(REAL) == source_digest(str(local_path(REAL)))
    for wrong in ("package:sklearn/../../../etc/passwd", "package:no_such_package_here/x.csv", "package:os/x", "package:sklearn/datasets/none.csv"):
        with pytest.raises(DataError):
            open_source(wrong)
        with pytest.raises(DataError):
            source_digest(wrong)


def test_table_of_other_classes_or_features_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="other features"):
        run(REAL, tmp_path, cytology(input={"shape": [29]}))
    with pytest.raises(DataError, match="classes"):
        run("package:sklearn/datasets/data/iris.csv", tmp_path, cytology(input={"shape": [4]}))


def test_columns_of_a_table_become_samples_and_the_manifest(tmp_path: Path):
    found = run(table(tmp_path / "in", HEADER, plain()), tmp_path, small())
    rows = found.manifest
    for k in range(20):
        place = rows["sample_id"].tolist().index(PSEUDONYMISER.id("sample", "table.csv", str(k + 2)))
        assert found.read(np.array([place]))[0].tolist() == pytest.approx([k + 0.5, -k / 7])
        assert rows["label"].tolist()[place] == k % 2
        assert rows["patient_id"].tolist()[place] == PSEUDONYMISER.id("patient", f"Jane{k}")


def test_spec_names_the_columns_in_its_own_order(tmp_path: Path):
    header = ["patient_id", "label", "radius", "note", "texture"]
    rows = [[p, y, a, 1, b] for p, y, a, b in plain()]
    found = run(table(tmp_path / "in", header, rows), tmp_path, small(input={"columns": ["Texture", "radius"]}))
    place = found.manifest.set_index("sample_id").index.get_loc(PSEUDONYMISER.id("sample", "table.csv", "5"))
    assert found.read(np.array([place]))[0].tolist() == pytest.approx([-3 / 7, 3.5])
    with pytest.raises(DataError, match="no such column"):
        run(tmp_path / "in", tmp_path / "b", small(input={"columns": ["area", "radius"]}))
    with pytest.raises(DataError, match="3 columns of numbers"):
        run(tmp_path / "in", tmp_path / "c", small())


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (2, "", "a missing value"),
        (2, "nan", "a value that is not a finite number"),
        (3, "inf", "a value that is not a finite number"),
        (3, "about 4", "a value that is not a finite number"),
        (3, "1e300", "a value that input.dtype cannot hold"),
        (1, "unsure", "a label outside the spec's classes"),
        (0, "", "no patient, which the grouping needs"),
    ],
)
def test_row_that_cannot_be_used_goes_to_quarantine_by_its_line(place: int, value: str, reason: str, tmp_path: Path):
    rows = plain()
    rows[4][place] = value
    found = run(table(tmp_path / "in", HEADER, rows), tmp_path, small())
    assert len(found) == 19
    assert found.quarantine[["reason", "offset"]].to_numpy().tolist() == [[reason, 6]]


def test_short_row_constant_column_and_empty_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = [[p, y, a, 7] for p, y, a, _ in plain()]
    rows[3] = rows[3][:3]
    found = run(table(tmp_path / "in", HEADER, rows), tmp_path, small())
    assert found.quarantine["reason"].tolist() == ["another number of values than of columns"]
    assert "1 of 2 columns of features never change" in capsys.readouterr().out
    for n, bad in enumerate(([], [[p, y, 1, 1] for p, y, _, _ in plain()])):
        with pytest.raises(DataError):
            run(table(tmp_path / f"bad{n}", HEADER, bad), tmp_path / f"out{n}", small())
