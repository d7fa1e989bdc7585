"""What every family of every disease must hold: the registry is the list of tests.

Families are tried small: where a kind has an option that shrinks it, the option is set (`SMALL`), and large images are cut down. Published
sizes are the business of `tests/core/test_models_nets_published.py`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.cores import wait_asleep
from components.core.engine_torch import TorchEngine
from components.core.engines import OnnxRuntime, OpenVino
from components.core.errors import DataError, SpecError
from components.core.models import build
from components.core.models.family import Epoch, Estimator, onnx_input
from components.core.models.family_ensemble import KINDS as ENSEMBLES
from components.core.models.samples import Samples
from components.core.models.torch_fit import TorchEstimator
from components.core.spec import DiseaseSpec
from components.register import onnx_embedding

wait_asleep()  # before the first test imports torch: small batches on a shared machine otherwise spin
SPECS = {path.stem: DiseaseSpec.from_toml(path) for path in sorted((Path(__file__).parents[2] / "pipelines" / "diseases").glob("*.toml"))}
CASES = [(disease, family) for disease, spec in SPECS.items() for family in sorted(spec.families)]
SMALL = {"divide": 8, "size": 0, "pretrained": "", "pretrain_epochs": 1, "views": False}
STILL = {
    "flips": False,
    "rotation": "none",
    "shift": 0.0,
    "zoom": 0.0,
    "smoothing": 0.0,
    "average": 0.0,
    "acquisition_jitter": 0.0,
    "schedule": "constant",
    "loss": "plain",
    "optimiser": "adamw",
    "dropout": 0.0,
    "corruption": 0.0,
}
OWN = {"cae-3d": {"hidden": [64, 16], "batch_norm": True}}  # thousands of units, as published
LONGEST = {"image": 64, "tiles": 64, "volume": 16}
EPOCHS = 60
cases = pytest.mark.parametrize(("disease", "family"), CASES, ids=[f"{disease}:{family}" for disease, family in CASES])


@cache
def options_of(disease: str, family: str) -> set[str]:
    """Names of the options that a family has: those that it offers in place of one that it does not have."""
    raw = json.loads(SPECS[disease].to_json())
    raw["families"][family]["options"] = {"none-such": True}
    with pytest.raises(SpecError, match="unknown option; got 'none-such'") as error:
        build(DiseaseSpec.from_json(json.dumps(raw)), family)
    return set(str(error.value.allowed).split(", "))


def spec_of(disease: str, family: str, *, epochs: int, options: dict[str, object] = SMALL, **values: object) -> DiseaseSpec:
    """The disease's own spec, made small and trained for a moment."""
    raw = json.loads(SPECS[disease].to_json())
    for name, own in raw["families"].items():  # all: an ensemble has other families as members
        own |= {"epochs": epochs, "batch": 8, **values}
        known = options_of(disease, name)
        own["options"] |= {option: value for option, value in (options | OWN.get(own["kind"], {})).items() if option in known}
    shape, longest = raw["input"]["shape"], LONGEST.get(raw["input"]["layout"], 4096)
    if max(shape[1:], default=0) > longest:
        smaller = json.loads(json.dumps(raw))
        smaller["input"]["shape"] = [shape[0], *(min(side, longest) for side in shape[1:])]
        try:
            build(spec := DiseaseSpec.from_json(json.dumps(smaller)), family)
            return spec
        except SpecError:  # it needs its images as they are
            pass
    return DiseaseSpec.from_json(json.dumps(raw))


def samples_of(spec: DiseaseSpec, n: int, seed: int = 0) -> Samples:
    """Noise in the spec's shape, of another mean and contrast in each sample; every class occurs, at random."""
    draw = np.random.default_rng(seed)
    low, high = np.sort(draw.random((2, n, spec.input.shape[0]), dtype=np.float32), axis=0).reshape(2, n, -1, *[1] * (len(spec.input.shape) - 1))
    x = low + (high - low) * draw.random((n, *spec.input.shape), dtype=np.float32)
    classes = np.arange(n) % spec.n_scores
    labels = (
        (draw.random((n, spec.n_scores)) < 0.5).astype(np.float32) if spec.target.kind == "multilabel" else draw.permutation(classes).astype(np.int64)
    )
    return Samples(batch=lambda rows: x[rows], labels=labels, groups=np.arange(n).astype(object))


def fitted(spec: DiseaseSpec, family: str, samples: Samples, folder: Path, seed: int = 7) -> tuple[Estimator, list[Epoch]]:
    estimator = build(spec, family)
    told: list[Epoch] = []
    history = estimator.fit(samples, samples, seed=seed, checkpoint=folder, on_epoch=told.append)
    assert told == history
    return estimator, history


@pytest.mark.parametrize("disease", sorted(SPECS))
def test_spec_is_the_same_after_a_round_trip(disease: str):
    """As JSON between steps; and every family's options are ones that its kind has."""
    spec = SPECS[disease]
    again = DiseaseSpec.from_json(spec.to_json())
    assert again == spec
    assert again.digest == spec.digest
    for name, own in spec.families.items():
        assert set(own.options) <= options_of(disease, name)


@cases
def test_scores_have_one_finite_column_per_class(disease: str, family: str):
    spec = spec_of(disease, family, epochs=1)
    scores = build(spec, family).scores(samples_of(spec, 3).all())
    assert scores.shape == (3, spec.n_scores)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()


@cases
def test_every_weight_gets_a_gradient(disease: str, family: str):
    """Of those that are trained: a family may hold some still."""
    import torch

    spec = spec_of(disease, family, epochs=1)
    module: Any = getattr(build(spec, family), "module", None)
    if module is None:
        pytest.skip("no network of its own")
    module.train()
    x = torch.from_numpy(samples_of(spec, 8).all()).to(next(module.parameters()).device)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # dropout
        scores = module(x)
    (scores * torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores.device)).sum().backward()
    still = [name for name, p in module.named_parameters() if p.requires_grad and (p.grad is None or not bool((p.grad != 0).any()))]
    assert not still, f"No gradient for {still}"


@cases
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
        answer = np.asarray(session.run(["scores"], {"x": inputs[:n]})[0])
        assert answer.shape == (n, spec.n_scores)
        assert np.abs(answer - scores[:n]).max() <= 1e-4 * max(1.0, float(np.abs(scores).max()))
    # What the server runs: the same figures from each engine.
    given = onnx_input(first.feature_name, x[:2]).astype(np.float32)
    width = onnx_embedding.add(tmp_path / "model.onnx", given) if isinstance(first, TorchEstimator) else None
    by_torch, embedded = TorchEngine(first, embedding=width).run(x[:5])
    assert np.abs(by_torch - scores[:5]).max() <= 1e-4 * max(1.0, float(np.abs(scores).max()))
    by_onnx = OnnxRuntime(tmp_path / "model.onnx", first.feature_name, name=disease, threads=1).run(x[:5])[1]
    assert (embedded is None) == (by_onnx is None) == (width is None)
    if embedded is not None and by_onnx is not None:
        assert np.abs(embedded - by_onnx).max() <= 1e-3 * max(1.0, float(np.abs(by_onnx).max()))
    own = OnnxRuntime(tmp_path / "model.onnx", first.feature_name, name=disease, threads=1)
    assert np.abs(own.run(x[:5])[0] - answer).max() <= 1e-5 * max(1.0, float(np.abs(answer).max()))
    import onnx

    if any(node.domain for node in onnx.load(tmp_path / "model.onnx").graph.node):  # trees are no operation of neural networks
        with pytest.raises(DataError, match="OpenVINO does not take the graph"):
            OpenVino(tmp_path / "model.onnx", first.feature_name, "f32", name=disease, threads=1)
        return
    other = OpenVino(tmp_path / "model.onnx", first.feature_name, "f32", name=disease, threads=1)
    for n in (1, 5):
        assert np.abs(other.run(x[:n])[0] - scores[:n]).max() <= 1e-3 * max(1.0, float(np.abs(scores).max()))


class Learned(Exception):
    """All samples are known by heart."""


@cases
def test_can_learn_sixteen_samples_by_heart(disease: str, family: str, tmp_path: Path):
    """Within sixty epochs, at one of two learning rates; stops when it has."""
    if SPECS[disease].families[family].kind in ENSEMBLES:
        pytest.skip("its members do; a join of a few numbers cannot")
    for rate in (3e-3, 1e-3):
        spec = spec_of(disease, family, epochs=EPOCHS, options=SMALL | STILL, lr=rate, weight_decay=0.0, batch=16)
        samples = samples_of(spec, 16)
        estimator = build(spec, family)

        def check(_: Epoch, estimator: Estimator = estimator, samples: Samples = samples) -> None:
            scores = estimator.scores(samples.all())
            right = scores > 0 if samples.labels.ndim == 2 else scores.argmax(axis=1)
            if np.array_equal(right, samples.labels > 0.5 if samples.labels.ndim == 2 else samples.labels):
                raise Learned

        try:
            estimator.fit(samples, samples, seed=7, checkpoint=tmp_path / str(rate), on_epoch=check)
        except Learned:
            return
    pytest.fail("not learned")
