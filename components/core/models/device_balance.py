"""Device-balanced sampling: a network should not know one scanner by heart because most of its samples came from there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def balanced_order(devices: Sequence[str], generator: torch.Generator) -> torch.Tensor:
    """(n,) row numbers for one epoch in which every device counts alike.

    As many rows as there are samples; each device gives an equal number, the odd ones to those drawn first. A device with more samples than its
    share gives some of them, another repeats its own, each as often as any other but for one.
    """
    import torch

    names = sorted(set(devices))
    n, share = len(devices), len(devices) / len(names)
    ranks = torch.randperm(len(names), generator=generator)
    chosen = []
    for name, rank in zip(names, ranks.tolist(), strict=True):
        own = torch.tensor([row for row, device in enumerate(devices) if device == name])
        wanted = math.floor((rank + 1) * share) - math.floor(rank * share)
        rounds = [own[torch.randperm(len(own), generator=generator)] for _ in range(-(-wanted // len(own)))]
        chosen += [torch.cat(rounds)[:wanted]] if rounds else []
    rows = torch.cat(chosen)
    return rows[torch.randperm(n, generator=generator)]
