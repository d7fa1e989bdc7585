"""External sets and folds: what belongs to which part of a source, and in which fold each group is test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.dataset import Dataset
from components.core.errors import DataError, SpecError
from components.core.folds import fold_numbers, roles, validation_groups
from components.core.spec import DiseaseSpec
from components.ingest.parts import parts
from components.ingest.readers.image_csv import CONTRADICTION, REPEAT
from components.ingest.source import Item, Source
from components.ingest.split import assign_folds
from components.ingest.step import ingest
from tests.ingest.made import KEY, PSEUDONYMISER
from tests.ingest.test_image_csv import ROOT, make

HEADER = ["image", "label", "patient_id", "scanner"]


def spec_of(**changes: Any) -> DiseaseSpec:
    raw = DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "lung-candidate.toml").model_dump(mode="json")
    raw["split"] = {"grouping": "patient", "train": 0.6, "val": 0.2, "test": 0.2}
    raw["normalise"] = {"method": "device", "missing_profile": "abstain"}
    return DiseaseSpec.model_validate(raw | changes)


EXTERNAL = [{"name": "clinic", "source": "sets/clinic"}, {"name": "unseen", "source": "sets/unseen", "role": "pretrain"}]


def source(folder: Path, *, unseen: bool = True) -> Path:
    """Twenty patients, a clinic with file names of its own that repeat the first source's, and a set without labels."""
    make(folder, HEADER, [[f"images/{n}.png", n % 2, f"A{n}", f"S{n % 2}"] for n in range(20)])
    make(folder / "sets/clinic", HEADER, [[f"images/{n}.png", n % 2, f"B{n}", "S9"] for n in range(6)])
    if unseen:
        make(folder / "sets/unseen", HEADER, [[f"images/{n}.png", "", f"C{n}", "S8"] for n in range(4)])
    return folder


def run(source: Path, out: Path, spec: DiseaseSpec) -> Dataset:
    ingest(spec, str(source), dataset=out / "dataset", features=out / "features", workers=1)
    return Dataset(out / "dataset")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    folder = tmp_path_factory.mktemp("external")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(folder / "home"))
        patch.setenv("DXFLOW_KEY", KEY)
        return run(source(folder / "in"), folder, spec_of(external=EXTERNAL)), folder


def test_a_file_belongs_to_the_innermost_external_folder():
    spec = spec_of(external=[{"name": "a", "source": "x"}, {"name": "b", "source": "x/y"}])
    listed = Source("/s", [Item(path, 1, "") for path in ("main.png", "x/1.png", "x/y/1.png", "x/yy/1.png", "xx/1.png")])
    assert [(p.name, p.source.root, [i.path for i in p.source.items]) for p in parts(spec, listed)] == [
        ("main", "/s", ["main.png", "xx/1.png"]),
        ("external-a", "/s/x", ["1.png", "yy/1.png"]),
        ("external-b", "/s/x/y", ["1.png"]),
    ]


def test_rows_carry_the_split_of_their_set(found: tuple[Dataset, Path]):
    rows = found[0].manifest
    assert rows["split"].value_counts().to_dict() == {"train": 12, "val": 4, "test": 4, "external-clinic": 6, "pretrain-unseen": 4}
    assert rows["fold"].isna().all()
    assert rows["sample_id"].is_unique
    assert rows["sample_id"].is_monotonic_increasing
    assert rows.loc[rows["split"] == "pretrain-unseen", "label"].isna().all()
    counts = found[0].info["counts"]
    assert (counts["samples"], counts["external-clinic"], counts["pretrain-unseen"], counts["train"]) == (30, 6, 4, 12)
    assert found[0].info["provenance"]["external"]["clinic"]["samples"] == 6


def test_pixels_follow_their_rows(found: tuple[Dataset, Path]):
    """`images/3.png` of the clinic is another file than that of the main part; both hold their number."""
    rows = found[0].manifest
    for split in ("external-clinic", "pretrain-unseen"):
        index = rows.index[rows["split"] == split].to_numpy()
        assert sorted(found[0].read(index)[:, 0, 0, 0].tolist()) == list(range(len(index)))
    own = PSEUDONYMISER.id("sample", "images/3.png")
    assert (found[0].read(rows.index[rows["sample_id"] == own].to_numpy()) == 3).all()


def test_no_profile_is_measured_on_an_external_set(found: tuple[Dataset, Path]):
    from feature_store.store import profiles_at

    rows = found[0].manifest
    outside = ~rows["split"].isin(["train", "val", "test"]).to_numpy()
    profiles = profiles_at(found[1] / "features", rows)
    assert [p is None for p in profiles] == outside.tolist()


def test_the_image_quality_of_an_external_set_is_measured(found: tuple[Dataset, Path]):
    from feature_store.views import facts_at

    rows = found[0].manifest
    levels = facts_at(found[1] / "features", "image_quality", rows)["mean"]
    assert levels.tolist() == found[0].read(np.arange(len(rows)))[:, 0, 0, 0].tolist()


def test_a_missing_external_folder_is_one_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    dataset = run(source(tmp_path / "in", unseen=False), tmp_path, spec_of(external=EXTERNAL))
    warnings = [line for line in capsys.readouterr().out.splitlines() if '"warning"' in line]
    assert len(warnings) == 1
    assert "external set 'unseen' is left out" in warnings[0]
    assert dataset.info["provenance"]["external"]["unseen"] == {
        "role": "pretrain",
        "split": "pretrain-unseen",
        "samples": 0,
        "missing": True,
        "notes": {},
    }
    assert dataset.info["counts"]["pretrain-unseen"] == 0


def test_a_damaged_external_set_names_itself(tmp_path: Path):
    make(tmp_path / "in", HEADER, [[f"images/{n}.png", n % 2, f"A{n}", "S"] for n in range(10)])
    make(tmp_path / "in/sets/clinic", HEADER, [["images/0.png", 7, "B0", "S"], ["images/1.png", 1, "B1", "S"]])
    with pytest.raises(DataError, match=r"--source: sets/clinic.*a label outside the spec's classes"):
        run(tmp_path / "in", tmp_path, spec_of(external=EXTERNAL[:1]))


def test_rows_of_an_unlabelled_set_that_contradict_each_other_are_named(tmp_path: Path):
    """Two persons for one picture: neither can be believed, whether or not there is a label to read."""
    folder = source(tmp_path / "in")
    with open(folder / "sets/unseen/labels.csv", "a") as table:
        table.write("images/1.png,,C9,S8\nimages/2.png,,C2,S8\n")
    found = run(folder, tmp_path, spec_of(external=EXTERNAL, limits={"quarantine_share": 1}))
    assert found.info["counts"]["pretrain-unseen"] == 3
    assert sorted(found.quarantine["reason"]) == [REPEAT, *[CONTRADICTION] * 2]


def test_an_external_reader_that_nobody_wrote(tmp_path: Path):
    with pytest.raises(SpecError, match="no such reader"):
        run(source(tmp_path / "in"), tmp_path, spec_of(external=[EXTERNAL[0] | {"reader": "fax"}, EXTERNAL[1]]))


def test_a_given_split_leaves_external_rows_without_one(tmp_path: Path):
    header = ["image", "label", "split"]
    make(tmp_path / "in", header, [[f"images/{n}.png", n % 2, ["train", "val", "test"][n % 3]] for n in range(9)])
    make(tmp_path / "in/sets/clinic", header[:2], [[f"images/{n}.png", n % 2] for n in range(3)])
    rows = run(tmp_path / "in", tmp_path, spec_of(split={"grouping": "none", "given": True}, external=EXTERNAL[:1])).manifest
    assert rows["split"].value_counts().to_dict() == {"train": 3, "val": 3, "test": 3, "external-clinic": 3}


@pytest.mark.parametrize("folds", [4, "group"])
def test_each_group_is_test_once(tmp_path: Path, folds: int | str):
    rule = {"grouping": "patient", "train": 0.6, "val": 0.2, "test": 0.2, "folds": folds}
    made = make(tmp_path / "in", HEADER, [[f"images/{n}.png", n % 2, f"A{n // 2}", f"S{n // 2 % 2}"] for n in range(20)])
    make(made / "sets/clinic", HEADER, [[f"images/{n}.png", n % 2, f"B{n}", "S9"] for n in range(3)])
    spec = spec_of(split=rule, external=EXTERNAL[:1])
    dataset = run(made, tmp_path, spec)
    rows = dataset.manifest
    main = rows[rows["fold"].notna()]
    assert set(rows.loc[rows["fold"].isna(), "split"]) == {"external-clinic"}
    assert set(main["split"]) == {"train", "val"}  # of the registered model
    assert (main.groupby("group_id")["fold"].nunique() == 1).all()
    assert fold_numbers(rows) == list(range(4 if folds == 4 else 10))
    assert dataset.info["provenance"]["folds"] == len(fold_numbers(rows))
    tested = []
    for fold in fold_numbers(rows):
        role = roles(rows, spec, fold)
        for name in ("train", "val", "test"):
            others = rows.loc[(role != name) & (role != None), "group_id"]  # noqa: E711 - an array, not a value
            assert not set(rows.loc[role == name, "group_id"]) & set(others)
        assert rows.loc[role == "val", "group_id"].nunique() == 2
        assert set(rows.loc[role == "val", "label"]) == {0, 1}
        tested += rows.loc[role == "test", "sample_id"].tolist()
    assert sorted(tested) == sorted(main["sample_id"])


def test_folds_are_balanced_and_keyed():
    groups = [f"g{n // 3}" for n in range(300)]
    labels = [int(n // 3 % 4 == 0) for n in range(300)]
    devices = [f"d{n // 3 % 2}" for n in range(300)]
    found = assign_folds(groups, devices, labels, folds=5, name="x")
    for fold in range(5):
        own = [n for n in range(300) if found[groups[n]] == fold]
        assert len(own) == pytest.approx(60, abs=6)
        assert sum(labels[n] for n in own) == pytest.approx(15, abs=3)
    assert found == assign_folds(groups[::-1], devices[::-1], labels[::-1], folds=5, name="x")
    assert found != assign_folds(groups, devices, labels, folds=5, name="y")


def test_more_folds_than_groups_is_one_line():
    with pytest.raises(DataError, match=r"more folds than groups: 5 folds, 4 groups|split\.folds"):
        assign_folds(["a", "b", "c", "d"], ["d"] * 4, [0, 1, 0, 1], folds=5, name="x")
    with pytest.raises(DataError, match="one fold for each group"):
        assign_folds([f"g{n}" for n in range(101)], ["d"] * 101, [0] * 101, folds="group", name="x")


def test_validation_is_not_one_odd_subject():
    """Ten subjects, four of whom have events: validation holds an event and a non-event, in every draw, and training keeps both."""
    groups = [f"s{n // 10}" for n in range(100)]
    labels = [int(n // 10 < 4 and n % 10 < 3) for n in range(100)]
    for key in range(20):
        chosen = validation_groups(groups, labels, ["d"] * 100, share=0.2, key=str(key))
        assert len(chosen) == 2
        assert any(labels[n] for n in range(100) if groups[n] in chosen)
        assert any(labels[n] for n in range(100) if groups[n] not in chosen)
    assert validation_groups(groups, labels, ["d"] * 100, share=0.2, key="1") == validation_groups(groups, labels, ["d"] * 100, share=0.2, key="1")
    with pytest.raises(DataError, match="too few groups"):
        validation_groups(["a"] * 5, [0, 1, 0, 1, 0], ["d"] * 5, share=0.2, key="1")


def test_bad_input_of_folds():
    with pytest.raises(SpecError, match=r"split\.folds"):
        DiseaseSpec.from_json(json.dumps(json.loads(spec_of().to_json()) | {"split": {"grouping": "patient", "given": True, "folds": 5}}))
