"""Greedy layer-wise pre-training of encoders: each learns to reconstruct its own, perhaps corrupted, input from its output alone.

Earlier layers are frozen while a later one learns; decoders are thrown away. Bengio et al. 2006; Vincent et al., JMLR 2010 for corruption.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from components.core.models.torch_batches import mixed_seed
from components.core.models.torch_pretrain import Given

if TYPE_CHECKING:
    import torch
    from torch import nn

Loss = Callable[["torch.Tensor", "torch.Tensor"], "torch.Tensor"]


def pretrain_layers(
    given: Given,
    before: nn.Module,
    encoders: Sequence[nn.Module],
    decoder_of: Callable[[int], nn.Module],
    *,
    epochs: int,
    batch: int,
    optimiser_of: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    loss_of: Callable[[int], Loss],
    corrupt: Callable[[torch.Tensor, torch.Generator], torch.Tensor] | None = None,
) -> list[list[float]]:
    """Train `encoders` in place, one after the other.

    Args:
        before: What inputs go through before the first encoder (flattening, standardising); never trained here.
        decoder_of: Number of the encoder -> a fresh decoder: the encoder's output -> the shape of its input.
        loss_of: Number of the encoder -> loss of (reconstruction, clean input).
        corrupt: What an encoder sees instead of its input; drawn anew for every batch.

    Returns:
        The mean loss of every epoch, for each encoder.
    """
    import torch

    losses: list[list[float]] = []
    for number, encoder in enumerate(encoders):
        stage = f"layer-{number + 1}"
        torch.manual_seed(mixed_seed(given.seed, number, "decoder"))
        decoder, loss = decoder_of(number).to(given.device), loss_of(number)
        part = torch.nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        trained = [p.requires_grad for p in encoder.parameters()]  # what supervised training leaves alone learns here all the same
        part.requires_grad_(True)
        frozen = torch.nn.Sequential(before, *encoders[:number]).eval()
        optimiser = optimiser_of(list(part.parameters()))

        def epoch(
            at: int, stage: str = stage, part: nn.ModuleDict = part, frozen: nn.Module = frozen, loss: Loss = loss,
            optimiser: torch.optim.Optimizer = optimiser,
        ) -> float:  # fmt: skip
            part.train()
            noise = given.generator(f"{stage} noise", at)
            total, n = torch.zeros((), device=given.device), 0
            for x, rows in given.batches(stage, at, batch):
                with torch.no_grad():
                    clean = frozen(x)
                seen = corrupt(clean, noise) if corrupt is not None else clean
                error = loss(part["decoder"](part["encoder"](seen)), clean)
                optimiser.zero_grad(set_to_none=True)
                error.backward()
                optimiser.step()
                total += error.detach() * len(rows)
                n += len(rows)
            return total.item() / n

        losses.append(given.stage(stage, epochs, part, optimiser, epoch))
        encoder.zero_grad(set_to_none=True)
        for parameter, was in zip(encoder.parameters(), trained, strict=True):
            parameter.requires_grad_(was)
    return losses
