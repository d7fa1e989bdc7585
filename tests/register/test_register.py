"""register: what passes becomes champion, what does not is kept with its reason, synthetic never passes for real, and a repeat changes nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core import acquisition_changes, calibration, image_quality, registry
from components.core.errors import DataError, GateError
from components.core.models.family import onnx_input
from components.core.package import ModelPackage
from components.core.storage import open_store
from components.evaluate.step import evaluate
from components.register import onnx_export
from components.register.step import register
from feature_store.store import OnlineProfiles, online_folder
from tests.small_run import example


class Registered:
    """Three models registered into one home: a synthetic one, a good one, and one with little to see."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.records: dict[str, dict[str, Any]] = {}
        for kind in ("synthetic", "real", "weak"):
            spec, run = example(kind)
            evaluate(spec, **run, out=root / kind / "evaluation")
            self.records[kind] = register(spec, **run, evaluation=root / kind / "evaluation", package=root / kind / "package")

    def package(self, kind: str) -> ModelPackage:
        return ModelPackage.open(self.root / kind / "package", allow_synthetic=True)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("register")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DXFLOW_HOME", str(root / "home"))
        patch.delenv("DXFLOW_STORE", raising=False)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Registered(root)


def test_a_good_model_of_real_data_becomes_champion(done: Registered):
    record = done.records["real"]
    assert (record["verdict"], record["alias"], record["reasons"]) == ("pass", "champion", [])
    found = registry.find("lung-nodule")
    assert (found.version, found.digest, found.verdict) == (record["version"], done.package("real").digest, "pass")


def test_what_the_served_graph_sees_projects_to_what_the_reference_says(done: Registered):
    """The embedding that the packed graph gives for a reference sample lands on that sample's own columns."""
    import onnxruntime

    from feature_store.training import load_split

    package = done.package("real")
    projection = package.projection
    assert projection is not None
    spec, run = example("real")
    val = load_split(spec, run["dataset"], run["features"], "val", package.reference_profile)
    session = onnxruntime.InferenceSession(str(package.onnx), providers=["CPUExecutionProvider"])
    rows = np.array([0, len(val.samples) // 2, len(val.samples) - 1])
    (found,) = session.run(["embedding"], {"x": val.samples.batch(rows)})
    columns = projection.columns(list(np.asarray(found)))
    reference = package.reference.set_index("sample_id").loc[val.rows["sample_id"].iloc[rows]]
    for name in projection.names:
        assert np.allclose(columns[name], reference[name].to_numpy(np.float64), atol=1e-3)


def test_a_refused_model_is_kept_with_its_reason_and_is_not_champion(done: Registered):
    record = done.records["weak"]
    assert record["verdict"] != "pass"
    assert record["alias"] is None
    kept = registry.find("lung-nodule", version=record["version"])
    assert kept.verdict == record["verdict"]
    assert "lower end at least 0.7" in kept.reasons
    assert kept.aliases == ()
    assert registry.find("lung-nodule").version == done.records["real"]["version"]
    assert open_store().exists(open_store().key_of(kept.uri))


def test_synthetic_stands_apart_and_never_is_champion(done: Registered):
    record = done.records["synthetic"]
    assert (record["verdict"], record["name"], record["alias"]) == ("pass", "synthetic/lung-nodule", "candidate")
    with pytest.raises(GateError, match="synthetic/lung-nodule: no champion"):
        registry.resolve("synthetic/lung-nodule")
    assert registry.resolve("synthetic/lung-nodule", alias="candidate") == record["uri"]
    assert {v.version for v in registry.versions("lung-nodule")} == {done.records["real"]["version"], done.records["weak"]["version"]}
    with pytest.raises(GateError, match="--allow-synthetic"):
        ModelPackage.open(done.root / "synthetic/package")


def test_registering_again_changes_nothing(done: Registered):
    spec, run = example("synthetic")
    before = {p.name: p.read_bytes() for p in (done.root / "synthetic/package").iterdir()}
    again = register(spec, **run, evaluation=done.root / "synthetic/evaluation", package=done.root / "again")
    assert again == done.records["synthetic"]
    assert {p.name: p.read_bytes() for p in (done.root / "again").iterdir()} == before
    assert len(registry.versions("synthetic/lung-nodule")) == 1


def test_the_registry_leads_to_a_package_that_opens(done: Registered, tmp_path: Path):
    found = registry.find("lung-nodule", alias="champion")
    open_store().get_folder(found.uri, tmp_path / "fetched")
    fetched = ModelPackage.open(tmp_path / "fetched", digest=found.digest)
    assert fetched.verdict == "pass"
    assert fetched.spec == example("real")[0]


def test_the_package_answers_as_evaluated(done: Registered):
    """ONNX, calibration and operating point of the package alone give the probabilities of predictions.parquet."""
    import onnxruntime
    import pandas as pd

    from feature_store.training import load_split

    spec, run = example("synthetic")
    package = done.package("synthetic")
    test = load_split(spec, run["dataset"], run["features"], "test", package.reference_profile)
    session = onnxruntime.InferenceSession(str(package.onnx), providers=["CPUExecutionProvider"])
    x = onnx_input(package.model_facts["feature_name"], test.samples.all())
    p = calibration.apply(package.calibration, session.run(["scores"], {"x": x})[0])
    table = pd.read_parquet(done.root / "synthetic/evaluation/predictions.parquet")
    table = table[table["split"] == "test"]
    np.testing.assert_allclose(p[:, 1], table["score_malignant"], atol=1e-4)
    decided = package.operating_point.decide(p) == 1
    assert (decided == (table["score_malignant"] >= package.operating_point.threshold)).all()


def test_a_networks_scores_are_a_linear_function_of_the_embedding_beside_them(done: Registered):
    import onnxruntime

    package = done.package("weak")
    session = onnxruntime.InferenceSession(str(package.onnx), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).random((200, *package.spec.input.shape), dtype=np.float32)
    scores, embedding = (np.asarray(a, dtype=np.float64) for a in session.run(["scores", "embedding"], {"x": x}))
    assert embedding.shape == (200, package.model_facts["onnx"]["embedding"])
    design = np.column_stack([embedding, np.ones(200)])
    assert np.abs(design @ np.linalg.lstsq(design, scores, rcond=None)[0] - scores).max() < 1e-4
    assert np.ptp(embedding, axis=0).max() > 0


def test_the_drift_reference_is_what_the_server_would_have_logged(done: Registered):
    table = done.package("weak").reference
    assert len(table) == 210
    assert set(table["split"]) == {"val", "test"}
    assert table["sample_id"].is_monotonic_increasing
    spec = example("weak")[0]
    assert {"device_key", "group_id", "score_malignant", "decision", "acq_kvp", *image_quality.names(spec)} <= set(table.columns)
    assert set(table["decision"]) == {"benign", "malignant"}
    from components.core.dataset import Dataset

    data = Dataset(example("weak")[1]["dataset"])
    row = int(np.flatnonzero(data.manifest["sample_id"] == table["sample_id"][7])[0])
    pixels = data.read([row])[0].astype(float)
    assert table["mean"][7] == pytest.approx(pixels.mean(), rel=1e-4)
    assert table["sd"][7] == pytest.approx(pixels.std(), rel=1e-4)
    figures = image_quality.figures(pixels[None], spec)
    assert {name: table[name][7] for name in figures} == {name: values[0] for name, values in figures.items()}


def test_the_package_says_what_each_change_of_the_acquisition_does_to_a_hundred_of_the_references_samples(done: Registered):
    package, spec = done.package("weak"), example("weak")[0]
    table = package.simulated
    assert table is not None
    assert set(table["cause"]) == {"", *acquisition_changes.possible(spec)}
    assert (table.groupby(["cause", "strength"]).size() == 100).all()
    unchanged = table[table["cause"] == ""]
    names = list(image_quality.names(spec))
    assert unchanged[names].merge(package.reference, on=names).shape[0] >= 100  # each of them is a row of the reference
    louder = table[(table["cause"] == "noise") & (table["strength"] == 1)]
    assert (louder["noise_sd"].to_numpy() > unchanged["noise_sd"].to_numpy()).all()
    path = done.root / "weak/package/simulated.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    with pytest.raises(DataError, match=r"simulated\.parquet: file of the model package was changed"):
        done.package("weak")
    path.write_bytes(whole)


def test_profiles_are_published_for_the_server(done: Registered):
    online = OnlineProfiles(online_folder("synthetic/lung-nodule"))
    assert online.get("aaaa1111aaaa1111", max_age_days=1).status == "ok"
    assert online.get("no-such-scanner", max_age_days=1).status == "missing"
    features = done.package("synthetic").features
    assert features["feature_service"].startswith("device_profile")
    assert re.fullmatch(r"[0-9a-f]{16}", features["profile_version"])


def test_the_card_says_what_a_reader_must_know(done: Registered):
    card, weak = done.package("synthetic").card, done.package("weak").card
    figures = done.package("synthetic").metrics["metrics"]["auc"]
    assert "SYNTHETIC DATA" in card
    assert "SYNTHETIC" not in weak
    for text in (card, weak):
        assert "assists and does not replace the physician" in text
        assert "not a certified medical device" in text
    assert f"| auc | {figures['value']:.3f} | {figures['low']:.3f} | {figures['high']:.3f} | {figures['n']} |" in card
    assert "| Philips Brilliance · cccc33 | 10 | | | | insufficient evidence (n=10) |" in card
    assert done.records["weak"]["reasons"][0] in weak
    tables = [block.splitlines() for block in card.split("\n\n") if block.startswith("| ")]
    assert all(len({row.count("|") for row in rows}) == 1 for rows in tables)


def test_features_family_exports_what_follows_its_features(done: Registered, tmp_path: Path):
    """The support vector machine takes 28 numbers, not an image; the package says so."""
    spec, run = example("features")
    evaluate(spec, **run, out=tmp_path / "evaluation")
    register(spec, **run, evaluation=tmp_path / "evaluation", package=tmp_path / "package")
    facts = ModelPackage.open(tmp_path / "package", allow_synthetic=True).model_facts
    assert facts["feature_name"] == facts["onnx"]["feature_name"] == "hand28"
    assert facts["onnx"]["input"]["shape"] == [None, 28]


class Lying:
    """An estimator whose exported file is another model's."""

    feature_name = None

    def __init__(self, honest: Any, other: Any) -> None:
        self.scores, self.export_onnx = honest.scores, other.export_onnx


def test_an_export_that_answers_differently_is_refused(tmp_path: Path):
    from components.core import models
    from feature_store.training import load_split

    spec, run = example("synthetic")
    trained, untrained = models.build(spec, "cnn"), models.build(spec, "cnn")
    trained.load(run["model"])
    val = load_split(spec, run["dataset"], run["features"], "val").samples
    assert onnx_export.export(trained, val, tmp_path / "good.onnx")["checked"] == 80
    with pytest.raises(GateError, match="other scores"):
        onnx_export.export(Lying(trained, untrained), val, tmp_path / "bad.onnx")  # type: ignore[arg-type]


def test_inputs_of_different_runs_are_refused_and_nothing_is_written(done: Registered, tmp_path: Path):
    spec, run = example("synthetic")
    shutil.copytree(run["model"], tmp_path / "model")
    (tmp_path / "model/spec.json").write_text(spec.model_copy(update={"title": "another"}).to_json())
    with pytest.raises(DataError, match="model of another spec"):
        register(spec, **(run | {"model": tmp_path / "model"}), evaluation=done.root / "synthetic/evaluation", package=tmp_path / "package")
    with pytest.raises(DataError, match="evaluation of another dataset"):
        register(spec, **run, evaluation=done.root / "real/evaluation", package=tmp_path / "package")
    assert not (tmp_path / "package").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_a_registry_that_is_away_is_one_line_and_leaves_no_package(done: Registered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from components.core.errors import ServiceError

    spec, run = example("synthetic")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://user:hunter2@nowhere")
    with pytest.raises(ServiceError) as caught:
        register(spec, **run, evaluation=done.root / "synthetic/evaluation", package=tmp_path / "package")
    assert "model registry" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert not list(tmp_path.iterdir())
