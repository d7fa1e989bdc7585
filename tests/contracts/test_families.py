"""What every family of every disease must hold: the registry is the list of tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.core.cores import wait_asleep
from components.core.models import build
from components.core.models.family import Epoch, onnx_input
from components.core.models.samples import Samples
from components.core.spec import DiseaseSpec

wait_asleep()  # before the first test imports torch: small batches on a shared machine otherwise spin
DISEASES = sorted((Path(__file__).parents[2] / "pipelines" / "diseases").glob("*.toml"))
CASES = [(path.stem, family) for path in DISEASES for family in sorted(DiseaseSpec.from_toml(path).families)]
STILL = {
    "flips": False,
    "rotation": "none",
    "shift": 0.0,
    "zoom": 0.0,
    "smoothing": 0.0,
    "average": 0.0,
    "schedule": "constant",
    "loss": "plain",
    "views": False,
}
pytestmark = pytest.mark.parametrize(("disease", "family"), CASES, ids=[f"{disease}:{family}" for disease, family in CASES])


def spec_of(disease: str, family: str, *, epochs: int, still: bool = False, **values: object) -> DiseaseSpec:
    """The disease's own spec, trained for a moment; `still` without any random view, so that memorising is possible."""
    raw = json.loads(next(path for path in DISEASES if path.stem == disease).read_text() and DiseaseSpec.from_toml(_path(disease)).to_json())
    own = raw["families"][family]
    own |= {"epochs": epochs, "batch": 8, **values}
    if still and not own["kind"].startswith("hand-features"):
        own["options"] |= STILL | ({"dropout": 0.0} if "dropout" in own["options"] else {})
    return DiseaseSpec.from_json(json.dumps(raw))


def _path(disease: str) -> Path:
    return next(path for path in DISEASES if path.stem == disease)


def samples_of(spec: DiseaseSpec, n: int, seed: int = 0) -> Samples:
    """Noise in the spec's shape; every class occurs."""
    draw = np.random.default_rng(seed)
    x = draw.random((n, *spec.input.shape), dtype=np.float32)
    classes = np.arange(n) % spec.n_scores
    labels = (
        (draw.random((n, spec.n_scores)) < 0.5).astype(np.float32) if spec.target.kind == "multilabel" else draw.permutation(classes).astype(np.int64)
    )
    return Samples(batch=lambda rows: x[rows], labels=labels, groups=np.arange(n).astype(object))


def fitted(spec: DiseaseSpec, family: str, samples: Samples, folder: Path, seed: int = 7) -> tuple[object, list[Epoch]]:
    estimator = build(spec, family)
    told: list[Epoch] = []
    history = estimator.fit(samples, samples, seed=seed, checkpoint=folder, on_epoch=told.append)
    assert told == history
    return estimator, history


def test_scores_have_one_finite_column_per_class(disease: str, family: str):
    spec = spec_of(disease, family, epochs=1)
    scores = build(spec, family).scores(samples_of(spec, 3).all())
    assert scores.shape == (3, spec.n_scores)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


def test_every_weight_gets_a_gradient(disease: str, family: str):
    import torch

    spec = spec_of(disease, family, epochs=1)
    module = getattr(build(spec, family), "module", None)
    if module is None:
        pytest.skip("no torch family")
    module.train()
    x = torch.from_numpy(samples_of(spec, 8).all()).to(next(module.parameters()).device)
    scores = module(x)
    (scores * torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores.device)).sum().backward()
    still = [name for name, p in module.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not still, f"No gradient for {still}"


def test_same_seed_same_scores_saved_loaded_and_exported(disease: str, family: str, tmp_path: Path):
    """Two fits agree bit by bit, so does the saved one; ONNX Runtime agrees to 1e-4 at any batch size."""
    import onnxruntime

    spec = spec_of(disease, family, epochs=2)
    samples = samples_of(spec, 24)
    first, history = fitted(spec, family, samples, tmp_path / "a")
    second, again = fitted(spec, family, samples, tmp_path / "b")
    x = samples.all()
    scores = first.scores(x)
    assert np.array_equal(scores, second.scores(x))
    assert [{k: v for k, v in e.items() if k != "seconds"} for e in history] == [{k: v for k, v in e.items() if k != "seconds"} for e in again]

    first.save(tmp_path)
    loaded = build(spec, family)
    loaded.load(tmp_path)
    assert np.array_equal(scores, loaded.scores(x))
    assert loaded.n_parameters == first.n_parameters > 0

    loaded.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    inputs = onnx_input(first.feature_name, x)
    for n in (1, 5):
        (answer,) = session.run(["scores"], {"x": inputs[:n]})
        assert answer.shape == (n, spec.n_scores)
        assert np.abs(answer - scores[:n]).max() <= 1e-4 * max(1.0, float(np.abs(scores).max()))


def test_can_learn_sixteen_samples_by_heart(disease: str, family: str, tmp_path: Path):
    spec = spec_of(disease, family, epochs=60, still=True, lr=3e-3, weight_decay=0.0)
    samples = samples_of(spec, 16)
    estimator, _ = fitted(spec, family, samples, tmp_path)
    scores = estimator.scores(samples.all())
    if spec.target.kind == "multilabel":
        assert np.array_equal(scores > 0, samples.labels > 0.5)
    else:
        assert np.array_equal(scores.argmax(axis=1), samples.labels)
