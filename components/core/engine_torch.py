"""A torch network as it was trained, behind the engines' contract: on CUDA float32 without TF32, or autocast to bfloat16 where that was accepted.

On CUDA the network's kernels are recorded once for a few batch sizes and started together (CUDA graphs): launched one by one from Python, hundreds
of small kernels take longer than they run. What cannot be recorded runs as in training.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.core.models.torch_fit import TorchEstimator

if TYPE_CHECKING:
    import torch

    from components.core.models.family import Estimator

TOGETHER = 32
SIZES = (1, 2, 4, 8, 16, TOGETHER)
"""Batches that are recorded; one in between runs as the next larger, whose last samples nobody asks for."""
WARM_UPS = 2  # before a recording, so that libraries have chosen their kernels
log = logging.getLogger("dxflow.engine")
_RECORDING = threading.Lock()
"""A recording begins by waiting for the whole device, which spoils another that is under way."""


@dataclass
class _Recorded:
    """The kernels of one batch size: a start of `graph` turns what lies in `given` into `scores` and `seen`."""

    graph: Any
    given: torch.Tensor
    scores: torch.Tensor
    seen: torch.Tensor | None


class TorchEngine:
    """A family's own estimator on `DXFLOW_DEVICE`, the CUDA device, or the CPU.

    Args:
        embedding: Length of the embedding that the package's ONNX file gives, None for none: what its last linear layer takes in, here as there.
        precision: `bf16` only for networks.
        record: Whether CUDA graphs are recorded; without a CUDA device they never are.
    """

    kind, together = "torch", TOGETHER

    def __init__(
        self, estimator: Estimator, precision: Literal["f32", "bf16"] = "f32", *, embedding: int | None = None, record: bool = True
    ) -> None:  # fmt: skip
        self.precision = precision
        self._estimator, self._network = estimator, None
        self.recorded: dict[int, _Recorded] = {}
        if not isinstance(estimator, TorchEstimator):
            self.together, self.precision = 1, "f32"
            return
        from torch import nn

        self._torch, self._width = estimator, embedding
        self._network = estimator.scorer()
        seen: list[torch.Tensor] = []
        self._seen = seen
        for layer in self._network.modules() if embedding else ():
            if isinstance(layer, nn.Linear) and layer.in_features == embedding:
                # Without the engine in it: a ring of network, hook and engine would keep a replaced model on the device.
                layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        if record and estimator.device.type == "cuda":
            self._record()

    def run(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `Engine.run`."""
        if self._network is None:
            return np.asarray(self._estimator.scores(x), dtype=np.float32), None
        n = len(x)
        found = next((self.recorded[size] for size in SIZES if size >= n and size in self.recorded), None)
        if found is None:
            with self._settings():
                return _answer(*self._forward(self._torch.to_device(x)), n)
        import torch

        found.given[:n].copy_(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)))
        found.graph.replay()
        return _answer(found.scores, found.seen, n)

    @contextmanager
    def _settings(self) -> Iterator[None]:
        import torch

        device = self._torch.device
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
            # A recording must not hold on to converted weights that the cache lets go.
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=False),
        ):
            yield

    def _forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores, and embeddings where the layer that takes them in saw one for each sample."""
        assert self._network is not None
        self._seen.clear()
        scores = self._network(x).float()
        seen = self._seen[-1] if self._seen else None
        self._seen.clear()
        return scores, seen.float() if seen is not None and tuple(seen.shape) == (len(x), self._width) else None

    def _record(self) -> None:
        """All sizes, from the largest, whose memory the others share; none where a network does what no graph can hold."""
        import torch

        with _RECORDING, torch.cuda.device(self._torch.device):
            pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
            try:
                for size in reversed(SIZES):
                    self.recorded[size] = self._recording(size, pool, stream)
            except RuntimeError as error:  # what a library says of a call that it cannot record; memory that does not suffice is one too
                self.recorded.clear()
                log.warning("the kernels of %s are started one by one: %s while they were recorded", self._torch.family.kind, type(error).__name__)

    def _recording(self, size: int, pool: Any, stream: torch.cuda.Stream) -> _Recorded:
        import torch

        given, graph = self._torch.to_device(np.zeros((size, *self._torch.spec.input.shape), np.float32)), torch.cuda.CUDAGraph()
        with self._settings():
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._forward(given)
            # Another thread may be answering with the model that this one replaces: its calls are not this recording's matter.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                scores, seen = self._forward(given)
        return _Recorded(graph, given, scores, seen)


def _answer(scores: torch.Tensor, seen: torch.Tensor | None, n: int) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    return scores[:n].cpu().numpy(), None if seen is None else seen[:n].cpu().numpy()
