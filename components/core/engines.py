"""What runs a package's network: ONNX Runtime in float32 by default, OpenVINO where registration accepted less than float32, torch on CUDA.

    auto            torch where there is a CUDA device and torch; else OpenVINO in an accepted precision that this processor computes in; else
                    onnxruntime
    onnxruntime     float32, any processor
    openvino        `precision` f32, bf16 or int8
    torch           the saved weights, on CUDA in mixed precision where the device computes in it

bf16 and int8 run only if `engine.json` of the package says that register measured what they change and found it small enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from components.core.cores import available_cores
from components.core.errors import DataError, SpecError
from components.core.models.family import onnx_input
from components.core.package import ModelPackage

EMBEDDING, SCORES = "embedding", "scores"
INT8 = "model.int8.onnx"
CHOICES = ("auto", "onnxruntime", "openvino", "torch")
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
    """
    wanted = wanted or Wanted()
    accepted = package.accepted_precisions
    feature = package.model_facts.get("feature_name")
    if wanted.kind == "torch" or (wanted.kind == "auto" and wanted.precision == "auto" and cuda()):
        return TorchEngine(package)
    precision = wanted.precision
    if precision == "auto":
        able = [p for p in accepted if p == "int8" or (p == "bf16" and computes_bf16())] if wanted.kind != "onnxruntime" else []
        precision = able[-1] if able else "f32"
    if precision != "f32" and precision not in accepted:
        raise SpecError("registration did not accept this precision", where="--precision", got=precision, allowed=", ".join(("f32", *accepted)))
    if wanted.kind == "openvino" or (wanted.kind == "auto" and precision != "f32"):
        return OpenVino(package.folder / INT8 if precision == "int8" else package.onnx, feature, precision, name=package.name)
    if precision != "f32":
        raise SpecError("this engine runs float32 only", where="--precision", got=precision, allowed="f32, or --engine openvino")
    return OnnxRuntime(package.onnx, feature, name=package.name)


class OnnxRuntime:
    """Float32 on the CPU."""

    kind, precision, together = "onnxruntime", "f32", 4

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

    kind, together = "openvino", 4

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


class TorchEngine:
    """The network as it was trained, on `DXFLOW_DEVICE` or the CUDA device. It gives no embedding."""

    kind, together = "torch", 32

    def __init__(self, package: ModelPackage) -> None:
        try:
            self._estimator = package.estimator()
        except ImportError:
            raise SpecError("torch is not installed here", where="--engine", got="torch", allowed="onnxruntime, openvino") from None
        self.precision = "f32"

    def run(self, x: NDArray[np.float32]) -> Answer:
        return np.asarray(self._estimator.scores(x), dtype=np.float32), None


def cuda() -> bool:
    """Whether torch is here and sees a CUDA device. Without the driver's device file torch, which takes seconds to import, is not asked."""
    import importlib.util

    if not any(Path("/dev").glob("nvidia[0-9]*")) or importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def computes_bf16() -> bool:
    """Whether this processor has bfloat16 units; elsewhere OpenVINO takes float32 whatever it is told."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _answer(found: Any) -> Answer:
    scores = np.asarray(found[0], dtype=np.float32)
    return scores, np.asarray(found[1], dtype=np.float32).reshape(len(found[1]), -1) if len(found) > 1 else None
