"""A torch network as it was trained, behind the engines' contract: on CUDA float32 without TF32, or autocast to bfloat16 where that was accepted."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.core.models.torch_fit import TorchEstimator

if TYPE_CHECKING:
    from components.core.models.family import Estimator

TOGETHER = 32


class TorchEngine:
    """A family's own estimator on `DXFLOW_DEVICE`, the CUDA device, or the CPU.

    Args:
        embedding: Length of the embedding that the package's ONNX file gives, None for none: what its last linear layer takes in, here as there.
        precision: `bf16` only for networks.
    """

    kind, together = "torch", TOGETHER

    def __init__(self, estimator: Estimator, precision: Literal["f32", "bf16"] = "f32", *, embedding: int | None = None) -> None:
        self.precision = precision
        self._estimator, self._network = estimator, None
        if not isinstance(estimator, TorchEstimator):
            self.together, self.precision = 1, "f32"
            return
        from torch import nn

        self._torch, self._width = estimator, embedding
        self._network = estimator.scorer()
        self._seen: list[Any] = []
        for layer in self._network.modules() if embedding else ():
            if isinstance(layer, nn.Linear) and layer.in_features == embedding:
                layer.register_forward_pre_hook(lambda _, given: self._seen.append(given[0]))

    def run(self, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """As `Engine.run`."""
        if self._network is None:
            return np.asarray(self._estimator.scores(x), dtype=np.float32), None
        import torch

        device = self._torch.device
        self._seen.clear()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False))
            if self.precision == "bf16":
                stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
            scores = self._network(self._torch.to_device(x)).float().cpu().numpy()
            seen = self._seen[-1] if self._seen else None
            if seen is None or seen.shape != (len(x), self._width):
                return scores, None
            return scores, seen.float().cpu().numpy()
