"""What runs a package's network: on CUDA torch, elsewhere OpenVINO where registration found that it gives the same answers, else ONNX Runtime.

    auto            torch where there is a CUDA device and torch; else OpenVINO where it was accepted; else onnxruntime
    onnxruntime     float32, any processor
    openvino        `precision` f32, bf16 or int8
    torch           the saved weights, in float32 or, autocast, bf16

The precision is the package's, never the node's: registration chose it (`engine.json`), and a node that cannot compute it does not start. Another one
is an operator's decision (`--precision`), which every answer tells. float32 of any engine runs where it is asked for; bf16 and int8 only where
registration measured and accepted them on validation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from components.core.cores import available_cores
from components.core.errors import DataError, ServiceError, SpecError
from components.core.models.family import onnx_input
from components.core.package import ModelPackage

EMBEDDING, SCORES = "embedding", "scores"
INT8 = "model.int8.onnx"
CHOICES = ("auto", "onnxruntime", "openvino", "torch")
TOGETHER = 8
"""Samples of different requests in one run on the CPU: more gain nothing, and the first would wait for the last."""
PRECISIONS = ("auto", "f32", "bf16", "int8")
Precision = Literal["f32", "bf16", "int8"]
Answer = tuple[NDArray[np.float32], NDArray[np.float32] | None]


class Engine(Protocol):
    """Not for several threads at once. `kind` and `precision` say what runs, `together` how many samples of different requests are worth one run."""

    kind: str
    precision: str
    together: int

    def run(self, x: NDArray[np.float32]) -> Answer:
        """(n, *input.shape) in [0, 1] -> scores (n, K) and, where the graph has them, embeddings (n, d)."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What was asked for on the command line. Raises SpecError for anything else than the choices."""

    kind: str = "auto"
    precision: str = "auto"

    def __post_init__(self) -> None:
        for where, got, allowed in (("--engine", self.kind, CHOICES), ("--precision", self.precision, PRECISIONS)):
            if got not in allowed:
                raise SpecError("no such engine", where=where, got=f"'{got}'", allowed=", ".join(allowed))


def open_engine(package: ModelPackage, wanted: Wanted | None = None) -> Engine:
    """The engine of a verified package.

    Raises:
        DataError: The graph does not load. SpecError: What was asked for is not here, or was not accepted at registration.
        ServiceError: This node does not compute in the precision.
    """
    wanted = wanted or Wanted()
    precision = package.precision if wanted.precision == "auto" else wanted.precision
    kind = _kind(package, precision) if wanted.kind == "auto" else wanted.kind
    accepted = package.accepted_precisions(kind)
    if precision != "f32" and kind == "onnxruntime":
        raise SpecError("this engine runs float32 only", where="--precision", got=precision, allowed="f32, or --engine openvino")
    if precision != "f32" and precision not in accepted:
        allowed = ", ".join(dict.fromkeys(("f32", *accepted)))
        raise SpecError("registration did not accept this precision", where="--precision", got=precision, allowed=allowed)
    if not computes(kind, precision):
        chosen = "in which it was registered" if precision == package.precision else "which was asked for"
        raise ServiceError(
            f"this node does not compute in {precision}, {chosen}", where=package.name, got=f"engine {kind}",
            allowed="a node that does, or an operator's --precision f32",
        )  # fmt: skip
    feature = package.model_facts.get("feature_name")
    if kind == "torch":
        return _torch(package, precision)
    if kind == "openvino":
        return OpenVino(package.folder / INT8 if precision == "int8" else package.onnx, feature, precision, name=package.name)
    return OnnxRuntime(package.onnx, feature, name=package.name)


def told(engine: Engine, registered: str) -> str:
    """What answers say of their arithmetic: `openvino f32`; where an operator chose another precision than registration did, both."""
    own = f"{engine.kind} {engine.precision}"
    return own if engine.precision == registered else f"{own}, registered in {registered}"


def _kind(package: ModelPackage, precision: str) -> str:
    """The fastest engine that registration accepted in this precision; float32 needs no acceptance on CUDA and in ONNX Runtime."""
    if cuda() and (precision == "f32" or precision in package.accepted_precisions("torch")):
        return "torch"
    return "openvino" if precision != "f32" or "f32" in package.accepted_precisions("openvino") else "onnxruntime"


def _torch(package: ModelPackage, precision: str) -> Engine:
    try:
        from components.core.engine_torch import TorchEngine

        return TorchEngine(
            package.estimator(), "bf16" if precision == "bf16" else "f32", embedding=package.model_facts.get("onnx", {}).get("embedding")
        )
    except ImportError:
        raise SpecError("torch is not installed here", where="--engine", got="torch", allowed="onnxruntime, openvino") from None


class OnnxRuntime:
    """Float32 on the CPU."""

    kind, precision, together = "onnxruntime", "f32", TOGETHER

    def __init__(self, path: Path, feature_name: str | None, *, name: str, threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads must not take the cores of other work
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base; the message may name paths, so only the kind is told
            raise DataError("ONNX graph does not load", where=f"{name}/{path.name}", got=type(error).__name__) from None
        self._feature = feature_name
        self._input = self._session.get_inputs()[0].name
        self._outputs = [SCORES, *([EMBEDDING] * any(o.name == EMBEDDING for o in self._session.get_outputs()))]

    def run(self, x: NDArray[np.float32]) -> Answer:
        return _answer(self._session.run(self._outputs, {self._input: onnx_input(self._feature, x)}))


class OpenVino:
    """OpenVINO on the CPU. Raises DataError where the graph has an operation that it does not know."""

    kind, together = "openvino", TOGETHER

    def __init__(self, path: Path, feature_name: str | None, precision: str, *, name: str, threads: int | None = None) -> None:
        import openvino

        self.precision, self._feature = precision, feature_name
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32", "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads or available_cores(),
        }  # fmt: skip
        try:
            core = openvino.Core()
            self._compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)
        except Exception as error:  # as above
            raise DataError("OpenVINO does not take the graph", where=f"{name}/{path.name}", got=type(error).__name__) from None
        self._request = self._compiled.create_infer_request()
        names = {name for output in self._compiled.outputs for name in output.get_names()}
        self._outputs = [SCORES, *([EMBEDDING] * (EMBEDDING in names))]

    def run(self, x: NDArray[np.float32]) -> Answer:
        given = np.ascontiguousarray(onnx_input(self._feature, x), dtype=np.float32)
        found = self._request.infer({0: given}, share_inputs=True)
        return _answer([np.array(found[name]) for name in self._outputs])


def cuda() -> bool:
    """Whether torch is here and computes on a CUDA device. Without the driver's device file torch, which takes seconds to import, is not asked."""
    import importlib.util

    if (
        os.environ.get("DXFLOW_DEVICE", "").startswith("cpu")
        or not any(Path("/dev").glob("nvidia[0-9]*"))
        or importlib.util.find_spec("torch") is None
    ):
        return False
    import torch

    return torch.cuda.is_available()


def torch_bf16() -> bool:
    """Whether torch computes on a CUDA device that has bfloat16 units."""
    if not cuda():
        return False
    import torch

    from components.core.models.torch_device import mixed_precision, pick_device

    return mixed_precision(pick_device())[0] is torch.bfloat16


def computes(kind: str, precision: str) -> bool:
    """Whether an engine computes in a precision on this node. OpenVINO takes any word, and computes in float32 where there are no units for it."""
    if precision == "f32":
        return True
    return torch_bf16() if kind == "torch" else precision.upper() in _openvino_units()


def _openvino_units() -> tuple[str, ...]:
    """`BF16`, `INT8`, ... of this processor."""
    import openvino

    return tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def _answer(found: Any) -> Answer:
    scores = np.asarray(found[0], dtype=np.float32)
    return scores, np.asarray(found[1], dtype=np.float32).reshape(len(found[1]), -1) if len(found) > 1 else None
