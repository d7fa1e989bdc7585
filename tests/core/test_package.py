"""A model package opens when every byte is what was registered, and not otherwise."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from components.core import package
from components.core.calibration import Calibration
from components.core.errors import DataError, GateError
from components.core.operating_point import Decision
from components.core.package import ModelPackage
from tests.core.flips import REFUSED, outcomes
from tests.small_run import small_spec

SPEC = small_spec()
DECISION = Decision("threshold", SPEC.target.classes, (0.4,), "malignant", "sensitivity at least 0.9", 50)


def content() -> dict[str, Path | bytes]:
    import pandas as pd

    table = io.BytesIO()
    pd.DataFrame({"device_key": ["a"], "score_malignant": [0.3]}).to_parquet(table, index=False)
    return {
        "spec.json": SPEC.to_json().encode(),
        "model.safetensors": b"weights",
        "model.onnx": b"graph",
        "model.json": b'{"family": "cnn"}',
        "preprocessing.json": b'{"method": "range", "reference": null}',
        "calibration.json": json.dumps(Calibration("softmax", (1.5,), (0.0, 0.1), 50).to_dict()).encode(),
        "operating_point.json": json.dumps(DECISION.to_dict()).encode(),
        "metrics.json": b"{}",
        "reference.parquet": table.getvalue(),
        "features.json": b'{"feature_service": "device_profile_v1", "profile_version": "00"}',
        "card.md": b"# card\n",
    }


def write(folder: Path, files: dict[str, Path | bytes] | None = None, *, synthetic: bool = False) -> ModelPackage:
    return package.write(folder, files or content(), disease=SPEC.name, family="cnn", synthetic=synthetic, verdict="fail", reasons=["AUC too low"])


def test_a_package_with_simulated_changes_has_them_and_one_of_before_says_none(tmp_path: Path):
    import pandas as pd

    table = io.BytesIO()
    pd.DataFrame({"cause": ["", "gain"], "strength": [0.0, 1.0], "mean": [1.0, 2.0]}).to_parquet(table, index=False)
    write(tmp_path / "new", content() | {"simulated.parquet": table.getvalue()})
    found = ModelPackage.open(tmp_path / "new").simulated
    assert found is not None
    assert found["mean"].tolist() == [1.0, 2.0]
    write(tmp_path / "old")
    assert ModelPackage.open(tmp_path / "old").simulated is None


def test_what_is_written_is_what_opens(tmp_path: Path):
    written = write(tmp_path / "p")
    opened = ModelPackage.open(tmp_path / "p", digest=written.digest)
    assert opened.digest == written.digest
    assert (opened.name, opened.disease, opened.family, opened.synthetic) == ("lung-nodule", "lung-nodule", "cnn", False)
    assert (opened.verdict, opened.reasons) == ("fail", ["AUC too low"])
    assert opened.spec == SPEC
    assert opened.calibration.temperature == (1.5,)
    assert opened.operating_point == DECISION
    assert opened.reference_profile is None
    assert opened.reference["score_malignant"].tolist() == [0.3]
    assert opened.features["profile_version"] == "00"
    assert opened.card == "# card\n"
    assert opened.registration == {}
    assert opened.version == opened.digest[:12]


def test_the_same_content_has_the_same_digest_and_one_bit_another(tmp_path: Path):
    first, again = write(tmp_path / "a"), write(tmp_path / "b")
    other = write(tmp_path / "c", content() | {"model.onnx": b"grapi"})
    assert first.digest == again.digest != other.digest
    assert (tmp_path / "a/package.json").read_bytes() == (tmp_path / "b/package.json").read_bytes()


@pytest.mark.parametrize("name", [*sorted(content()), "package.json"])
def test_a_changed_file_is_named(tmp_path: Path, name: str):
    digest = write(tmp_path / "p").digest
    path = tmp_path / "p" / name
    data = path.read_bytes()
    if name == "package.json":  # the list itself is what the registry's digest stands for
        data = data.replace(b'"AUC too low"', b'"AUC is fine"')
        path.write_bytes(data)
        with pytest.raises(DataError, match="another package than the one registered"):
            ModelPackage.open(tmp_path / "p", digest=digest)
        return
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    with pytest.raises(DataError, match=f"{name}: file of the model package was changed"):
        ModelPackage.open(tmp_path / "p")


@pytest.mark.parametrize("name", [*sorted(content()), "package.json"])
def test_no_flipped_bit_of_a_file_is_opened(tmp_path: Path, name: str):
    """`package.json` holds every other file's hash; its own is what `registration.json` says."""
    digest = write(tmp_path / "p").digest
    (tmp_path / "p/registration.json").write_text(json.dumps({"version": "7", "digest": digest}))
    path = tmp_path / "p" / name
    data = path.read_bytes()

    def read(changed: bytes) -> tuple[Any, str]:
        path.write_bytes(changed)
        opened = ModelPackage.open(tmp_path / "p")
        return opened.info, opened.digest

    found, wrong = outcomes(data, read, min(60, 8 * len(data)))
    assert wrong == []
    assert found[REFUSED] >= (50 if name == "package.json" else min(60, 8 * len(data)))  # blanks between its words are nobody's


def test_a_registration_that_cannot_be_read_is_one_line(tmp_path: Path):
    write(tmp_path / "p")
    (tmp_path / "p/registration.json").write_text("[")
    with pytest.raises(DataError, match=r"registration\.json: not what register wrote; got no JSON"):
        ModelPackage.open(tmp_path / "p")


@pytest.mark.parametrize("name", sorted(content()))
def test_a_missing_file_is_named(tmp_path: Path, name: str):
    write(tmp_path / "p")
    (tmp_path / "p" / name).unlink()
    with pytest.raises(DataError, match=f"{name}: file of the model package is missing"):
        ModelPackage.open(tmp_path / "p")


@pytest.mark.parametrize("name", ["model.pkl", "sub/model.onnx", "__init__.py"])
def test_an_extra_file_is_named(tmp_path: Path, name: str):
    write(tmp_path / "p")
    (tmp_path / "p" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "p" / name).write_bytes(b"x")
    with pytest.raises(DataError, match="does not belong"):
        ModelPackage.open(tmp_path / "p")


def test_a_link_in_place_of_a_file_is_refused(tmp_path: Path):
    write(tmp_path / "p")
    (tmp_path / "card.md").write_bytes(b"# card\n")
    (tmp_path / "p/card.md").unlink()
    (tmp_path / "p/card.md").symlink_to(tmp_path / "card.md")
    with pytest.raises(DataError, match=r"card\.md"):
        ModelPackage.open(tmp_path / "p")


def test_what_register_and_the_store_add_is_no_extra_file(tmp_path: Path):
    own = write(tmp_path / "p").digest
    (tmp_path / "p/registration.json").write_text(json.dumps({"version": "7", "digest": own}))  # as before there were seals
    (tmp_path / "p/inference-service.yaml").write_text("kind: InferenceService\n")
    (tmp_path / "p/.dxflow.json").write_text("{}")
    assert ModelPackage.open(tmp_path / "p").version == "7"


@pytest.mark.parametrize("listed", ["../outside", "/etc/hostname", "sub/model.onnx", "..", "registration.json"])
def test_a_list_that_points_elsewhere_is_refused(tmp_path: Path, listed: str):
    write(tmp_path / "p")
    path = tmp_path / "p/package.json"
    info = json.loads(path.read_text())
    info["files"][listed] = "0" * 64
    path.write_text(json.dumps(info))
    with pytest.raises(DataError, match="not a file name of a model package"):
        ModelPackage.open(tmp_path / "p")


def test_synthetic_opens_only_when_asked_for(tmp_path: Path):
    write(tmp_path / "p", synthetic=True)
    with pytest.raises(GateError, match=r"synthetic/lung-nodule: trained on synthetic data.*--allow-synthetic"):
        ModelPackage.open(tmp_path / "p")
    assert ModelPackage.open(tmp_path / "p", allow_synthetic=True).name == "synthetic/lung-nodule"


def test_synthetic_cannot_hide_behind_another_name(tmp_path: Path):
    write(tmp_path / "p", synthetic=True)
    path = tmp_path / "p/package.json"
    path.write_text(path.read_text().replace('"synthetic": true', '"synthetic": false'))
    with pytest.raises(DataError, match="contradict"):
        ModelPackage.open(tmp_path / "p", allow_synthetic=True)


def test_no_package_and_another_schema_are_one_line(tmp_path: Path):
    for text in (None, "", "[]", '{"files": 3}', '{"files": {}}'):
        if text is not None:
            (tmp_path / "package.json").write_text(text)
        with pytest.raises(DataError, match="not a model package"):
            ModelPackage.open(tmp_path)
    write(tmp_path / "p")
    path = tmp_path / "p/package.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(DataError, match="another schema; got 2; allowed: 1"):
        ModelPackage.open(tmp_path / "p")


def test_an_incomplete_package_is_not_written(tmp_path: Path):
    files = content()
    del files["calibration.json"]
    with pytest.raises(DataError, match=r"no calibration\.json"):
        write(tmp_path / "p", files)
    assert not (tmp_path / "p").exists()
