"""What serves on a CUDA device: kernels that were recorded give what the network gives when they are launched one by one."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

from components.core.engine_torch import SIZES, TorchEngine
from components.core.models import build
from components.core.models.torch_fit import TorchEstimator
from tests.contracts.test_families import cases, samples_of, spec_of

on_cuda = pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="no CUDA device here")


def test_on_a_cpu_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DXFLOW_DEVICE", "cpu")
    engine = TorchEngine(build(spec_of("lung-nodule", "cnn", epochs=1), "cnn"))
    assert not engine.recorded


def test_an_engine_that_nobody_has_any_more_is_gone_with_its_network() -> None:
    """Without a search for rings: the server freezes what is there when it starts, and a replaced model must leave the device."""
    spec = spec_of("lung-nodule", "cnn", epochs=1)
    estimator: Any = build(spec, "cnn")
    engine = TorchEngine(estimator, embedding=next(m.in_features for m in estimator.module.modules() if type(m).__name__ == "Linear"))
    engine.run(samples_of(spec, 2).all())
    left = weakref.ref(engine)
    gc.disable()
    try:
        del engine
        assert left() is None
    finally:
        gc.enable()


@on_cuda
@cases
def test_recorded_kernels_give_what_single_ones_give(disease: str, family: str) -> None:
    """At every batch that is recorded, at one in between, at a larger one; and a sample's scores do not depend on who was asked before."""
    spec = spec_of(disease, family, epochs=1)
    estimator = build(spec, family)
    if not isinstance(estimator, TorchEstimator):
        pytest.skip("no network of its own")
    x = samples_of(spec, SIZES[-1] + 1).all()
    linear = [m.in_features for m in estimator.module.modules() if type(m).__name__ == "Linear"]
    width = linear[-1] if linear else None
    single, recorded = TorchEngine(estimator, embedding=width, record=False), TorchEngine(estimator, embedding=width)
    assert sorted(recorded.recorded) == list(SIZES)
    assert not single.recorded
    largest = max(1.0, float(np.abs(single.run(x)[0]).max()))
    for n in (*SIZES, 3, SIZES[-1] + 1):
        (a, ea), (b, eb) = single.run(x[:n]), recorded.run(x[:n])
        assert a.shape == b.shape == (n, spec.n_scores)
        assert np.abs(a - b).max() <= 1e-4 * largest
        assert (ea is None) == (eb is None)
        if ea is not None and eb is not None:
            assert ea.shape == eb.shape == (n, width)
            assert np.abs(ea - eb).max() <= 1e-4 * max(1.0, float(np.abs(ea).max()))
    alone = recorded.run(x[:3])[0]
    recorded.run(x[::-1][:3].copy())
    assert np.array_equal(recorded.run(x[:3])[0], alone)


@on_cuda
def test_recorded_bfloat16_stays_near_float32() -> None:
    spec = spec_of("lung-nodule", "cnn", epochs=1)
    estimator, x = build(spec, "cnn"), samples_of(spec, 32).all()
    exact, half = TorchEngine(estimator).run(x)[0], TorchEngine(estimator, "bf16").run(x)[0]
    assert 0 < np.abs(exact - half).max() < 0.05 * max(1.0, float(np.abs(exact).max()))


@on_cuda
def test_a_model_is_recorded_while_another_answers() -> None:
    """As when a model is replaced under load."""
    spec = spec_of("lung-nodule", "cnn", epochs=1)
    estimator, x = build(spec, "cnn"), samples_of(spec, 32).all()
    engine = TorchEngine(estimator)
    expected, stop = engine.run(x)[0], threading.Event()
    different: list[float] = []

    def answer() -> None:
        while not stop.is_set():
            different.append(float(np.abs(engine.run(x)[0] - expected).max()))

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        others = [TorchEngine(build(spec, "cnn")) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert all(sorted(other.recorded) == list(SIZES) for other in others)
    assert len(different) > 10
    assert max(different) == 0
