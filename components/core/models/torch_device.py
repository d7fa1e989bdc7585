"""Where torch computes, and how it is kept reproducible there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from components.core.errors import SpecError

if TYPE_CHECKING:
    import torch


def pick_device() -> torch.device:
    """`DXFLOW_DEVICE` (cpu, cuda, cuda:N) if set, else CUDA where there is a usable one, else the CPU."""
    import torch

    asked = os.environ.get("DXFLOW_DEVICE", "")
    if not asked:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = asked.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise SpecError("no such device", where="DXFLOW_DEVICE", got=f"'{asked}'", allowed="cpu, cuda, cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise SpecError(
            "no such CUDA device here", where="DXFLOW_DEVICE", got=f"'{asked}'", allowed=f"cpu, or one of {torch.cuda.device_count()} CUDA devices"
        )
    return torch.device(asked)


@contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Deterministic kernels and full float32 inside the block; the process's random state and settings come back afterwards.

    An operation without a deterministic kernel still runs. Weights repeat bit by bit on one machine with one thread count and one torch
    version; across those, sums are taken in another order.
    """
    import torch
    from torch.utils import deterministic as guard

    # cuBLAS reads it when it starts, so it has to stand there before the first product of matrices.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before, warn_only = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fills = guard.fill_uninitialized_memory  # pyright: ignore[reportAttributeAccessIssue]
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Filling fresh memory only makes reads of it visible as a defect, and costs a tenth of an epoch.
        guard.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            guard.fill_uninitialized_memory = fills  # pyright: ignore[reportAttributeAccessIssue]


def mixed_precision(device: torch.device) -> tuple[torch.dtype | None, bool]:
    """(autocast type or None, whether gradients need scaling): bfloat16 on CUDA devices that compute in it, float16 on older ones."""
    import torch

    if device.type != "cuda":
        return None, False
    native = torch.cuda.get_device_capability(device)[0] >= 8
    return (torch.bfloat16, False) if native else (torch.float16, True)
