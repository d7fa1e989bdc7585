"""load_split gives each sample the profile of its own device and time, and says where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core.dataset_writer import Sample, write_dataset
from components.core.devices import DeviceProfile, normalise, pooled
from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from feature_store.store import write_profiles
from feature_store.training import load_split

A = DeviceProfile("scanner-a", "1", 30, 100.0, 10.0, 70.0, 100.0, 130.0, 0.0, 0.1)
B = DeviceProfile("scanner-b", "1", 10, 140.0, 20.0, 90.0, 140.0, 190.0, 0.0, 0.1)


def spec(method: str = "device", kind: str = "binary") -> DiseaseSpec:
    return DiseaseSpec.model_validate({
        "name": "toy", "title": "Toy", "sources": ["doi:10.1/none"], "default_family": "cnn", "families": {"cnn": {"kind": "none"}},
        "input": {"modality": "image", "reader": "npz", "layout": "image", "shape": [1, 8, 8], "dtype": "uint8", "range": [0, 255]},
        "target": {"kind": kind, "classes": ["no", "yes"], "positive": "yes" if kind == "binary" else None, "source": "made up"},
        "device": {"key": ["Manufacturer"]}, "normalise": {"method": method, "missing_profile": "pooled"}, "split": {"grouping": "patient"},
    })  # fmt: skip


def dataset(folder: Path, spec: DiseaseSpec, **columns: Any) -> Path:
    """60 samples: devices a, b, c in turn; splits in blocks of 20; values N(device mean, sd)."""
    rng = np.random.default_rng(0)

    def samples() -> Any:
        for i in range(60):
            device = "abc"[i % 3]
            row = {
                "sample_id": f"s{i:03d}", "group_id": f"g{i}", "device_key": f"scanner-{device}", "label": i % 2,
                "split": ("train", "val", "test")[i // 20], "synthetic": True, "acquired_at": pd.Timestamp("2020-06-01", tz="UTC"),
            }  # fmt: skip
            mean, sd = {"a": (100, 10), "b": (140, 20), "c": (100, 10)}[device]
            row |= {name: values[i] for name, values in columns.items()}
            yield Sample(row=row, array=np.clip(rng.normal(mean, sd, (1, 8, 8)), 0, 255).astype(np.uint8))

    write_dataset(folder, spec, samples(), count=60, quarantine=[], provenance={})
    return folder


@pytest.fixture
def features(tmp_path: Path) -> Path:
    write_profiles(tmp_path / "features", [p.to_dict() | {"event_timestamp": None} for p in (A, B)])
    return tmp_path / "features"


def test_samples_are_normalised_by_their_own_device(features: Path, tmp_path: Path) -> None:
    """Each batch equals `normalise` with that sample's profile, whatever the order asked for; the reference pools the train devices."""
    s = spec()
    data = dataset(tmp_path / "d", s)
    got = load_split(s, data, features, "test")
    assert got.reference == pooled([A, B])
    assert list(got.rows["split"].unique()) == ["test"]
    from components.core.dataset import Dataset

    raw = Dataset(data).read(np.arange(40, 60))
    order = np.array([7, 0, 19, 4])
    own = {"scanner-a": A, "scanner-b": B, "scanner-c": None}
    expected = np.concatenate([normalise(raw[i : i + 1], s, own[got.rows["device_key"][i]], got.reference) for i in order])
    np.testing.assert_array_equal(got.samples.batch(order), expected)
    assert got.samples.labels.dtype == np.int64
    assert got.samples.labels.tolist() == [i % 2 for i in range(40, 60)]


def test_a_device_without_a_profile_stands_on_the_reference_and_is_flagged(features: Path, tmp_path: Path) -> None:
    s = spec()
    got = load_split(s, dataset(tmp_path / "d", s), features, "train")
    assert got.missing_profile.tolist() == [k == "scanner-c" for k in got.rows["device_key"]]


def test_taking_a_profile_away_changes_what_the_model_sees(features: Path, tmp_path: Path) -> None:
    s = spec()
    data = dataset(tmp_path / "d", s)
    whole = load_split(s, data, features, "test")
    write_profiles(tmp_path / "less", [A.to_dict() | {"event_timestamp": None}])
    less = load_split(s, data, tmp_path / "less", "test", reference=whole.reference)
    changed = np.abs(whole.samples.all() - less.samples.all()).max(axis=(1, 2, 3)) > 0.01
    assert changed.tolist() == [k == "scanner-b" for k in whole.rows["device_key"]]
    assert (less.missing_profile & ~whole.missing_profile).tolist() == changed.tolist()


def test_a_given_reference_is_kept(features: Path, tmp_path: Path) -> None:
    s = spec()
    other = replace(A, mean=50.0)
    assert load_split(s, dataset(tmp_path / "d", s), features, "val", reference=other).reference == other


def test_feast_is_not_imported_unless_the_method_needs_it(tmp_path: Path) -> None:
    """Method `range`: no profiles, no reference, no Feast, and the features folder need not exist."""
    s = spec("range")
    data = dataset(tmp_path / "d", s)
    code = f"""
import sys, json
from pathlib import Path
from components.core.spec import DiseaseSpec
from feature_store.training import load_split
got = load_split(DiseaseSpec.from_json({s.to_json()!r}), Path({str(data)!r}), Path("/nowhere"), "train")
x = got.samples.all()
print(json.dumps([len(got.samples), got.profiles, got.reference, bool(got.missing_profile.any()), x.min() >= 0 and x.max() <= 1 and x.max() > .1,
                  sorted(m for m in ("feast", "torch", "duckdb") if m in sys.modules)], default=bool))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": ":".join(sys.path)})
    assert json.loads(done.stdout) == [20, None, None, False, True, []]


def test_multilabel_targets_are_one_value_per_class(features: Path, tmp_path: Path) -> None:
    s = spec("range", "multilabel")
    values = [[float(i % 2), float(i % 3 == 0)] for i in range(60)]
    got = load_split(s, dataset(tmp_path / "d", s, labels=values, label=[None] * 60), features, "val")
    np.testing.assert_array_equal(got.samples.labels, np.array(values[20:40], dtype=np.float32))


def test_labels_outside_the_classes_and_empty_splits_are_data_errors(features: Path, tmp_path: Path) -> None:
    s = spec("range")
    with pytest.raises(DataError, match=r"outside the spec's classes; got 1 samples; allowed: 0\.\.1"):
        load_split(s, dataset(tmp_path / "d", s, label=[2] + [0] * 59), features, "train")
    with pytest.raises(DataError, match="no samples in this split"):
        load_split(s, dataset(tmp_path / "e", s, split=["train"] * 60), features, "val")
    with pytest.raises(DataError, match=r"no such split; got 'tset'; allowed: train, val, test"):
        load_split(s, tmp_path / "e", features, "tset")
