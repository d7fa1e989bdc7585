"""One estimator for every torch family: a family only says what its network is."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from components.core.errors import DataError, SpecError
from components.core.imaging.acquisition_jitter import jittered
from components.core.imaging.augment import Augment, orientations, warp
from components.core.models import torch_checkpoint
from components.core.models.device_balance import balanced_order
from components.core.models.family import Epoch
from components.core.models.family_figures import best_epoch, validation_figures
from components.core.models.samples import Samples
from components.core.models.torch_batches import ahead, mixed_seed
from components.core.models.torch_device import mixed_precision, pick_device, reproducible
from components.core.models.torch_objective import Loss, Objective
from components.core.models.torch_pretrain import Given, Pretrain
from components.core.spec import DiseaseSpec, Family

if TYPE_CHECKING:
    import torch
    from torch import nn

WEIGHTS = "model.safetensors"
SCORING_BATCH = 256


@dataclass(frozen=True)
class Training:
    """How a network is trained, beside `epochs`, `batch`, `lr`, `weight_decay` and `patience` of its family.

    Args:
        schedule: `onecycle` warms up over a tenth of all steps, then both it and `cosine` fall to zero along half a cosine.
        loss: What is done about rare classes: `plain` nothing, `balanced` and `effective` weigh classes, `focal` samples; see `Objective`.
        beta, gamma: Of `effective` and of `focal`.
        smoothing: Label smoothing.
        average: Decay of the moving average of weights that is validated and kept; 0 keeps the weights themselves.
        clip: Largest gradient norm; 0 does not clip.
        optimiser: `adadelta` with rho .95 and eps 1e-6; `sgd` with `momentum`.
        device_balanced: Every epoch, each device gives as many samples as any other: a rare one is repeated, a common one gives some of its own.
        acquisition_jitter: Strength of the random changes of gain, light, sharpness and noise that training samples go through; 1 is about what
            two makers differ by, 0 changes nothing.
        views: The score is the mean over all flips and, on square images, quarter turns; part of the exported model.
    """

    schedule: Literal["constant", "cosine", "onecycle"] = "cosine"
    loss: Loss = "plain"
    beta: float = field(default=0.999, metadata={"low": 0, "high": 0.999999})
    gamma: float = field(default=2.0, metadata={"low": 0, "high": 10})
    smoothing: float = field(default=0.0, metadata={"low": 0, "high": 0.5})
    average: float = field(default=0.0, metadata={"low": 0, "high": 0.99999})
    clip: float = field(default=0.0, metadata={"low": 0, "high": 1000})
    optimiser: Literal["adamw", "sgd", "adadelta"] = "adamw"
    momentum: float = field(default=0.9, metadata={"low": 0, "high": 0.999})
    device_balanced: bool = False
    acquisition_jitter: float = field(default=0.0, metadata={"low": 0, "high": 4})
    views: bool = False

    def rate(self, step: int, steps: int) -> float:
        """Share of the highest learning rate at `step` of `steps`, in (0, 1]."""
        if self.schedule == "constant":
            return 1.0
        warm = steps // 10 if self.schedule == "onecycle" else 0
        if step < warm:
            return (step + 1) / (warm + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


class TorchEstimator:
    """A torch network behind the family contract.

    Args:
        network: Makes the untrained network, (N, *input.shape) in [0, 1] -> (N, n_scores) logits, from torch's random state.
        augment: Views drawn for training; None where the layout has no plane to turn (windows, tables).
        pretrain: Changes the fresh network before its first supervised epoch; see `torch_pretrain.py`.
        share: Name of a parameter -> its share of the family's learning rate; 0 leaves it as it is. None: 1 for all.
    """

    feature_name: str | None = None

    def __init__(
        self,
        spec: DiseaseSpec,
        family: Family,
        network: Callable[[], nn.Module],
        *,
        training: Training,
        augment: Augment | None,
        pretrain: Pretrain | None = None,
        share: Callable[[str], float] | None = None,
    ) -> None:
        self.spec, self.family, self.network, self.training = spec, family, network, training
        planes = spec.input.layout in ("image", "tiles", "volume")
        if not planes and training.views:
            raise SpecError(
                "views need images",
                where=f"{spec.name}: families.*.options.views",
                got=f"layout '{spec.input.layout}'",
                allowed="image, tiles, volume",
            )
        if spec.input.layout == "table" and training.acquisition_jitter:
            where = f"{spec.name}: families.*.options.acquisition_jitter"
            raise SpecError("a table has no acquisition", where=where, got=training.acquisition_jitter, allowed="0, or another layout")
        self.augment = augment if planes and augment is not None and augment.moves else None
        self.square = planes and spec.input.shape[-1] == spec.input.shape[-2]
        self.pretrain, self.share = pretrain, share or (lambda _: 1.0)
        self.device = pick_device()
        self.module = self._fresh(0)

    def fit(
        self, train: Samples, val: Samples, *, seed: int, checkpoint: Path, on_epoch: Callable[[Epoch], None], unlabelled: Samples | None = None
    ) -> list[Epoch]:
        """See `Estimator.fit`. Raises DataError on an empty split, SpecError when the loss grows beyond any number."""
        for name, split in (("train", train), ("val", val)):
            if not len(split):
                raise DataError("no samples to train with", where=f"{self.spec.name}: split {name}", got=0)
        with reproducible(self.device):
            return self._fit(train.cached(), val.cached(), seed, checkpoint, on_epoch, unlabelled)

    def _fit(
        self, train: Samples, val: Samples, seed: int, checkpoint: Path, on_epoch: Callable[[Epoch], None], unlabelled: Samples | None
    ) -> list[Epoch]:
        import torch

        module = self.module = self._fresh(seed)
        key = self._key(train, val, seed, unlabelled)
        found = torch_checkpoint.read(checkpoint, key=key)
        if found is None and self.pretrain is not None:
            inputs = unlabelled.cached() if unlabelled is not None else train
            where = f"{self.spec.name}: kind '{self.family.kind}'"
            self.pretrain(module, Given(train, inputs, seed, self.device, where, checkpoint, key))
        kept = copy.deepcopy(module) if self.training.average else module
        optimiser = self._optimiser(module)
        asked = self.training
        objective = Objective(self.spec, train.labels, loss=asked.loss, smoothing=asked.smoothing, beta=asked.beta, gamma=asked.gamma).to(self.device)
        targets = objective.target(train.labels)
        amp, scaling = mixed_precision(self.device)
        scaler = torch.amp.GradScaler(self.device.type, enabled=scaling)  # pyright: ignore[reportPrivateImportUsage]
        history: list[Epoch] = []
        best: dict[str, torch.Tensor] = {}

        if found is not None:
            state, tensors = found
            module.load_state_dict(tensors["model"])
            kept.load_state_dict(tensors["kept"])
            best = {name: tensor.to(self.device) for name, tensor in tensors["best"].items()}
            torch_checkpoint.restore_optimiser(optimiser, tensors.get("optimiser", {}))
            scaler.load_state_dict(state["scaler"])
            history = state["history"]
            for epoch in history:
                on_epoch(epoch)

        batches = max(1, math.ceil(len(train) / self.family.batch))
        while len(history) < self.family.epochs and not self._stalled(history):
            started = time.monotonic()
            number = len(history)
            order = self._generator(seed, number, "order")
            views = self._generator(seed, number, "views")
            acquisition = self._generator(seed, number, "acquisition")
            torch.manual_seed(mixed_seed(seed, number, "network"))  # dropout
            module.train()
            total = torch.zeros((), device=self.device)
            # Batches of nearly equal size: a last batch of one sample has no variance for batch normalisation.
            chosen = np.array_split(self._order(train, order).numpy(), batches)
            for step, (x, rows) in enumerate(ahead(train, chosen)):
                for group in optimiser.param_groups:
                    group["lr"] = group["share"] * self.family.lr * self.training.rate(number * batches + step, self.family.epochs * batches)
                inputs = self.to_device(x)
                if self.augment is not None:
                    maps = self.augment.draw(len(rows), x.shape[-2], x.shape[-1], views).to(self.device, non_blocking=True)
                    inputs = self._laid_out(warp(inputs, maps))
                if self.training.acquisition_jitter:
                    inputs = self._laid_out(jittered(inputs, self.training.acquisition_jitter, acquisition))
                target = targets[torch.from_numpy(rows)].to(self.device, non_blocking=True)
                with torch.autocast(self.device.type, dtype=amp) if amp is not None else nullcontext():
                    loss = objective.loss(module(inputs), target)
                optimiser.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if self.training.clip:
                    scaler.unscale_(optimiser)
                    torch.nn.utils.clip_grad_norm_(module.parameters(), self.training.clip)
                scaler.step(optimiser)
                scaler.update()
                total += loss.detach() * len(rows)
                if kept is not module:
                    self._average(kept, module, number * batches + step)
            train_loss = total.item() / len(train)
            if not math.isfinite(train_loss):
                raise SpecError(
                    "the training loss is no longer finite",
                    where=f"{self.spec.name}: kind '{self.family.kind}', lr",
                    got=self.family.lr,
                    allowed="a smaller one",
                )
            figures = validation_figures(self.spec, val.labels, self._scores(kept, val, views=False))
            history.append({"epoch": number + 1, "train_loss": train_loss, **figures, "seconds": round(time.monotonic() - started, 3)})
            if best_epoch(history) is history[-1]:
                best = {name: tensor.detach().clone() for name, tensor in kept.state_dict().items()}
            groups = {
                "model": module.state_dict(),
                "kept": kept.state_dict(),
                "best": best,
                "optimiser": torch_checkpoint.optimiser_tensors(optimiser),
            }
            torch_checkpoint.write(checkpoint, key=key, state={"history": history, "scaler": scaler.state_dict()}, tensors=groups)
            on_epoch(history[-1])
        module.load_state_dict(best)
        return history

    def scores(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        labels = np.zeros(len(x), dtype=np.int64)
        with reproducible(self.device):
            return self._scores(
                self.module, Samples(batch=lambda rows: x[rows], labels=labels, groups=labels.astype(object)), views=self.training.views
            )

    def save(self, folder: Path) -> None:
        from safetensors.torch import save

        # By way of bytes: safetensors writes files that only their owner can read.
        (folder / WEIGHTS).write_bytes(save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.module.state_dict().items()}))

    def load(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError):
            raise DataError("no readable weights", where=str(folder / WEIGHTS)) from None
        own = {name: tuple(tensor.shape) for name, tensor in self.module.state_dict().items()}
        if (found := {name: tuple(tensor.shape) for name, tensor in state.items()}) != own:
            odd = sorted(set(own.items()) ^ set(found.items()))[0]
            raise DataError("weights of another network", where=str(folder / WEIGHTS), got=f"{odd[0]}: {found.get(odd[0])}", allowed=own.get(odd[0]))
        self.module.load_state_dict(state)

    def export_onnx(self, path: Path) -> None:
        from components.core.models.torch_onnx import export

        export(self.scorer(), self.spec.input.shape, path)

    @property
    def epochs(self) -> int:
        return self.family.epochs

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def _fresh(self, seed: int) -> nn.Module:
        """The untrained network of a seed, the same wherever the process's random state stands, on the device."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed_seed(seed, 0, "weights"))
            module = self.network()
        for name, parameter in module.named_parameters():
            if not self.share(name):
                parameter.requires_grad_(False)
        if self.spec.input.layout in ("image", "tiles"):
            return module.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        return module.to(self.device)

    def _optimiser(self, module: nn.Module) -> torch.optim.Optimizer:
        """Weight decay acts on matrices and kernels only, not on biases and normalisation."""
        import torch

        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, p in module.named_parameters():
            if p.requires_grad:
                groups.setdefault((self.share(name), self.family.weight_decay if p.ndim > 1 else 0.0), []).append(p)
        parts = [{"params": members, "share": share, "weight_decay": decay} for (share, decay), members in groups.items()]
        if self.training.optimiser == "sgd":
            return torch.optim.SGD(parts, lr=self.family.lr, momentum=self.training.momentum)
        if self.training.optimiser == "adadelta":
            return torch.optim.Adadelta(parts, lr=self.family.lr, rho=0.95, eps=1e-6)
        return torch.optim.AdamW(parts, lr=self.family.lr)

    def _average(self, kept: nn.Module, module: nn.Module, step: int) -> None:
        """Move the kept weights towards the trained ones; at the start faster, so that the random start is forgotten."""
        import torch

        share = 1 - min(self.training.average, (2 + step) / (11 + step))
        with torch.no_grad():
            for mean, now in zip(kept.state_dict().values(), module.state_dict().values(), strict=True):
                if mean.dtype.is_floating_point:
                    mean.lerp_(now, share)
                else:
                    mean.copy_(now)

    def _order(self, train: Samples, generator: torch.Generator) -> torch.Tensor:
        """Row numbers of one epoch, `len(train)` of them."""
        import torch

        if self.training.device_balanced and train.devices is not None:
            return balanced_order([str(device) for device in train.devices], generator)
        return torch.randperm(len(train), generator=generator)

    def _stalled(self, history: list[Epoch]) -> bool:
        return bool(history) and len(history) - best_epoch(history)["epoch"] >= self.family.patience

    def _scores(self, module: nn.Module, samples: Samples, *, views: bool) -> NDArray[np.float32]:
        import torch

        module.eval()
        scorer = self.scorer(module) if views else module
        out = np.empty((len(samples), self.spec.n_scores), dtype=np.float32)
        with torch.inference_mode():
            for start in range(0, len(samples), SCORING_BATCH):
                rows = np.arange(start, min(start + SCORING_BATCH, len(samples)))
                out[rows] = scorer(self.to_device(samples.batch(rows))).float().cpu().numpy()
        return out

    def scorer(self, module: nn.Module | None = None) -> nn.Module:
        """The network as it answers: in evaluation mode, averaged over views where the family asks for it."""
        network = (module or self.module).eval()
        return _over_views(network) if self.training.views else network

    def to_device(self, x: NDArray[np.float32]) -> torch.Tensor:
        import torch

        return self._laid_out(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(self.device, non_blocking=True))

    def _laid_out(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x

    def _generator(self, seed: int, epoch: int, purpose: str) -> torch.Generator:
        import torch

        return torch.Generator().manual_seed(mixed_seed(seed, epoch, purpose))

    def _key(self, train: Samples, val: Samples, seed: int, unlabelled: Samples | None) -> str:
        """Hash of what the weights depend on, as far as the estimator knows it; the caller's folder stands for the data."""
        import torch

        labels = [hashlib.sha256(np.ascontiguousarray(s.labels).tobytes()).hexdigest() for s in (train, val)]
        facts: dict[str, Any] = {
            "spec": self.spec.digest,
            "family": self.family.model_dump(mode="json"),
            "training": asdict(self.training),
            "seed": seed,
            "labels": labels,
            "unlabelled": len(unlabelled) if unlabelled is not None else None,
            "augment": asdict(self.augment) if self.augment else None,
            "device": self.device.type,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _over_views(network: nn.Module) -> nn.Module:
    """`network` averaged over all orientations of its input, as one module."""
    import torch
    from torch import nn

    class OverViews(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            views = orientations(x)
            together = torch.cat(views)
            if together.ndim == 4:
                together = together.contiguous(memory_format=torch.channels_last)
            return self.network(together).unflatten(0, (len(views), -1)).mean(dim=0)

    return OverViews().eval()
