"""One file from which a killed training resumes to bit-identical weights.

Tensors and one JSON text in the safetensors format: nothing in it is ever executed, and one rename replaces the previous epoch's file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.atomic import atomic_file, remove_partials

if TYPE_CHECKING:
    import torch

FILE = "last.safetensors"


def write(folder: Path, *, key: str, state: dict[str, Any], tensors: dict[str, dict[str, torch.Tensor]]) -> None:
    """Replace the checkpoint.

    Args:
        key: What the training depends on; another key makes the file worthless.
        state: JSON-able.
        tensors: By group (model, best, optimiser) and name.
    """
    from safetensors.torch import save_file

    flat = {f"{group}/{name}": tensor.detach().cpu().contiguous().clone() for group, named in tensors.items() for name, tensor in named.items()}
    with atomic_file(folder / FILE) as partial:
        save_file(flat, partial, metadata={"state": json.dumps({"key": key, **state}, sort_keys=True)})


def read(folder: Path, *, key: str) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]] | None:
    """What `write` wrote under the same key, or None: absent, of another training, or damaged (then training starts over)."""
    from safetensors import SafetensorError, safe_open

    if folder.is_dir():
        remove_partials(folder)
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(str(folder / FILE), framework="pt") as file:
            state = json.loads(file.metadata()["state"])
            if state.pop("key") != key:
                return None
            for name in file.keys():  # noqa: SIM118 - not a dict
                group, _, rest = name.partition("/")
                tensors.setdefault(group, {})[rest] = file.get_tensor(name)
    except (OSError, SafetensorError, json.JSONDecodeError, KeyError, TypeError):
        return None
    return state, tensors


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as `<parameter number>.<name>`; every value of Adam and SGD is a tensor."""
    import torch

    return {
        f"{n}.{name}": value
        for n, values in optimiser.state_dict()["state"].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Put back what `optimiser_tensors` took, in the memory layout of the parameters: another layout may round differently."""
    import torch

    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, _, rest = name.partition(".")
        parameter = parameters[int(number)]
        same = rest != "step" and value.shape == parameter.shape
        state.setdefault(int(number), {})[rest] = torch.empty_like(parameter, dtype=value.dtype).copy_(value) if same else value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
