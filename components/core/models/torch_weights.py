"""Weights trained elsewhere: by name from torchvision or timm, or from a local .safetensors file. Nothing in them is ever executed."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from components.core.errors import DataError, ServiceError, SpecError

if TYPE_CHECKING:
    import torch
    from torch import nn

SUFFIX = ".safetensors"
State = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Source:
    """Where a network's published weights are.

    Args:
        library: torchvision keeps them on a server of its own, checked by the hash in the file's name; timm on the Hugging Face hub.
        model: The library's name of the network.
    """

    library: Literal["torchvision", "timm", "none"]
    model: str = ""

    def names(self) -> list[str]:
        """The weights that have a name; finding out asks no server."""
        if self.library == "torchvision":
            from torchvision.models import get_model_weights

            # Weights without the classifier (IMAGENET1K_FEATURES) lack layers.
            return [weights.name for weights in get_model_weights(self.model) if "FEATURES" not in weights.name]
        if self.library == "timm":
            import timm

            return [name.removeprefix(f"{self.model}.") for name in timm.list_models(f"{self.model}.*", pretrained=True)]
        return []

    def check(self, asked: str, *, where: str) -> None:
        """Raises SpecError when `asked` is neither a name nor a .safetensors file's; whether the file is there is seen when it is read."""
        if not asked.endswith(SUFFIX) and asked not in (names := self.names()):
            raise SpecError("no such weights", where=where, got=f"'{asked}'", allowed=", ".join([*names, f"path of a {SUFFIX} file"]))

    def read(self, asked: str, *, where: str) -> State:
        """The tensors by layer.

        Raises:
            DataError: No readable file. ServiceError: They could not be fetched; the line says where to put them by hand.
        """
        if asked.endswith(SUFFIX):
            return _file(Path(asked), where)
        return self._torchvision(asked, where) if self.library == "torchvision" else self._timm(asked, where)

    def _torchvision(self, asked: str, where: str) -> State:
        from torch import hub
        from torchvision.models import get_model_weights

        url = get_model_weights(self.model)[asked].url
        folder = Path(hub.get_dir()) / "checkpoints"
        held = folder / url.rpartition("/")[2]
        # The download is checked by torch; a file that lies there already is not.
        if held.is_file() and not hashlib.sha256(held.read_bytes()).hexdigest().startswith(held.stem.rpartition("-")[2]):
            raise DataError("not the weights that the file's name promises", where=where, got=str(held), allowed=f"the file at {url}")
        try:
            # weights_only: tensors and nothing else leave the file, which is a pickle.
            return hub.load_state_dict_from_url(url, map_location="cpu", progress=False, check_hash=True, weights_only=True)
        except (OSError, RuntimeError):  # no network, no such file; a hash that does not fit
            raise _unfetched(where, asked, f"put {url} into {folder}") from None

    def _timm(self, asked: str, where: str) -> State:
        import httpx
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        name = f"timm/{self.model}.{asked}"
        try:
            path = hf_hub_download(name, "model.safetensors")
        except (OSError, ValueError, HfHubHTTPError, httpx.HTTPError):
            raise _unfetched(where, asked, f"fetch model.safetensors of huggingface.co/{name}") from None
        return _file(Path(path), where)


def fill(body: nn.Module, state: State, *, where: str) -> None:
    """Copy weights into the layers of their names, in place.

    Convolutions and normalisation must all be there. The first convolution is fitted to other channels: each gets the mean over the colours,
    scaled so that a grey image excites it as before. Fully connected layers of another shape (other classes, another image size) keep their
    random start; layers that the network lacks (auxiliary heads) are left out.

    Raises:
        DataError: A layer is missing or has another shape.
    """
    import torch

    own = body.state_dict()
    first = next(name for name, tensor in own.items() if tensor.ndim == 4)
    taken: State = {}
    for name, tensor in own.items():
        given = state.get(name)
        if given is None:
            if name.endswith("num_batches_tracked"):
                continue
            raise DataError("weights of another network", where=where, got=f"no {name}", allowed=tuple(tensor.shape))
        if name == first and given.ndim == 4 and given.shape[1] != tensor.shape[1]:
            given = given.mean(dim=1, keepdim=True).expand(-1, tensor.shape[1], -1, -1) * (given.shape[1] / tensor.shape[1])
        if given.shape == tensor.shape:
            taken[name] = given
        elif not isinstance(body.get_submodule(name.rpartition(".")[0]), torch.nn.Linear):
            raise DataError("weights of another network", where=where, got=f"{name}: {tuple(given.shape)}", allowed=tuple(tensor.shape))
    body.load_state_dict(taken, strict=False)


def _file(path: Path, where: str) -> State:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        raise DataError("no readable weights", where=where, got=f"'{path.name}'", allowed=f"a {SUFFIX} file") from None


def _unfetched(where: str, asked: str, remedy: str) -> ServiceError:
    return ServiceError(
        "weights could not be fetched", where=where, got=f"'{asked}'", allowed=f"a network; or {remedy}; or the path of a {SUFFIX} file"
    )
