"""What a family may do with its fresh network before the first supervised epoch: look at the inputs, learn from them without labels.

A family passes `pretrain(module, given)` to its `TorchEstimator`. It is called once for each fit, on the fresh module, and changes the
module in place; a fit that resumes from a supervised epoch does not call it. Its own epochs are progress lines, not epochs of the history.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError, SpecError
from components.core.models import torch_checkpoint
from components.core.models.samples import Samples
from components.core.models.torch_batches import ahead, mixed_seed
from components.core.step import Progress

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Given:
    """What pre-training has.

    Args:
        train: The supervised training split: statistics of the inputs, and labels where a stage takes them.
        inputs: What to learn from without labels: the unlabelled set where the disease has one, else `train`.
        seed: Of the training.
        device: Where the module is.
        where: Named by errors.
        folder: Of checkpoints.
        key: What the training depends on; checkpoints of another are not used.
    """

    train: Samples
    inputs: Samples
    seed: int
    device: torch.device
    where: str
    folder: Path
    key: str

    def generator(self, stage: str, epoch: int = 0) -> torch.Generator:
        """Randomness of one epoch of one stage, on the CPU: the same on every device."""
        import torch

        return torch.Generator().manual_seed(mixed_seed(self.seed, epoch, f"pretrain {stage}"))

    def batches(self, stage: str, epoch: int, size: int, samples: Samples | None = None) -> Iterator[tuple[torch.Tensor, NDArray[np.int64]]]:
        """All of `samples` (default: `inputs`) once, shuffled, as (x on the device, row numbers), in batches of nearly `size`."""
        import torch

        samples = self.inputs if samples is None else samples
        order = torch.randperm(len(samples), generator=self.generator(f"{stage} order", epoch)).numpy()
        for x, rows in ahead(samples, np.array_split(order, max(1, math.ceil(len(samples) / size)))):
            yield torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(self.device), rows

    def stage(self, stage: str, epochs: int, part: nn.Module, optimiser: torch.optim.Optimizer, epoch: Callable[[int], float]) -> list[float]:
        """Run `epoch(number)` for 0, 1, ..., resuming after the last one that an earlier process finished.

        Args:
            part: Whose weights the epochs change, together with the optimiser's state; both are kept after each epoch.
            epoch: Returns the mean loss (a reconstruction error) of the epoch.

        Returns:
            The loss of each epoch.

        Raises:
            SpecError: The loss is no longer finite. DataError: There is nothing to learn from.
        """
        import torch

        if not len(self.inputs):
            raise DataError("no samples to pre-train with", where=self.where, got=0)
        folder, losses = self.folder / f"pretrain-{stage}", []
        if (found := torch_checkpoint.read(folder, key=self.key)) is not None:
            losses = found[0]["losses"]
            part.load_state_dict(found[1]["part"])
            torch_checkpoint.restore_optimiser(optimiser, found[1].get("optimiser", {}))
        progress = Progress(f"pre-train {stage}", epochs)
        if losses:
            progress.advance(len(losses), loss=round(losses[-1], 5))
        while len(losses) < epochs:
            torch.manual_seed(mixed_seed(self.seed, len(losses), f"pretrain {stage} network"))  # whatever draws without a generator
            losses.append(epoch(len(losses)))
            if not math.isfinite(losses[-1]):
                raise SpecError("the loss of pre-training is no longer finite", where=f"{self.where}: {stage}", allowed="a smaller pretrain_lr")
            groups = {"part": part.state_dict(), "optimiser": torch_checkpoint.optimiser_tensors(optimiser)}
            torch_checkpoint.write(folder, key=self.key, state={"losses": losses}, tensors=groups)
            progress.advance(1, loss=round(losses[-1], 5))
        return losses


Pretrain = Callable[["nn.Module", Given], None]
