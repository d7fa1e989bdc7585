"""The ONNX file, and the proof that it answers like the model that was evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core.errors import GateError
from components.core.models.samples import Samples
from components.register import onnx_embedding, onnx_head

if TYPE_CHECKING:
    from components.core.models.family import Estimator

CHECKED = 128
RELATIVE = 1e-3  # of the spread of the scores: far below what moves a probability in its third digit


def export(estimator: Estimator, samples: Samples, path: Path) -> dict[str, Any]:
    """Write `path` and compare it with the estimator on real samples, in two batch sizes, since the batch must be free.

    Returns:
        `input` (name, shape, type), `feature_name`, `checked` (samples), `difference_below` (logits), `embedding` (its length, None for none).

    Raises:
        GateError: The exported model answers differently.
    """
    import onnx
    import onnxruntime

    from components.core.models.family import onnx_input
    from components.core.models.torch_fit import TorchEstimator

    estimator.export_onnx(path)
    rows = np.unique(np.linspace(0, len(samples) - 1, min(CHECKED, len(samples))).astype(np.int64))  # over the whole split, so over its devices
    x = samples.batch(rows)
    given = onnx_input(estimator.feature_name, x).astype(np.float32)
    embedding = onnx_embedding.add(path, given) if isinstance(estimator, TorchEstimator) else None
    if isinstance(estimator, TorchEstimator) and estimator.feature_name is None and given.ndim > 2:
        onnx_head.add(path, given[:8], given.ndim - 2)
    onnx.checker.check_model(str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    expected = estimator.scores(x)
    found = np.asarray(session.run(["scores"], {"x": given})[0])
    alone = np.asarray(session.run(["scores"], {"x": given[:1]})[0])
    if found.shape != expected.shape or alone.shape != expected[:1].shape:
        raise GateError("the exported model gives scores of another shape", where="model.onnx", got=found.shape, allowed=expected.shape)
    difference = max(float(np.abs(found - expected).max()), float(np.abs(alone - expected[:1]).max()))
    allowed = RELATIVE * max(1.0, float(expected.std()))
    if not difference <= allowed:  # also when it is not a number
        raise GateError("the exported model gives other scores", where="model.onnx", got=f"{difference:.2g}", allowed=f"at most {allowed:.2g}")
    facts = session.get_inputs()[0]
    # The runtime's last digits differ between machines; the record must not.
    return {
        "input": {"name": facts.name, "shape": [None, *given.shape[1:]], "type": "float32"},
        "feature_name": estimator.feature_name,
        "checked": len(rows),
        "embedding": embedding,
        "difference_below": allowed if difference > 1e-4 else 1e-4,
    }
