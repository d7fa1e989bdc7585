"""ONNX export of a torch network with a free batch size."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from components.core.atomic import atomic_file

if TYPE_CHECKING:
    from torch import nn

OPSET = 17


def export(network: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write one file, input `x` (N, *shape), output `scores`; no machine path or clock in it, so equal weights give equal bytes.

    The tracing exporter is fifteen times quicker than the one over torch.export and writes opset 17, which every runtime reads; the other
    takes over where tracing lacks an operation or is gone.
    """
    import copy

    import torch

    network = copy.deepcopy(network).cpu().eval()
    example = torch.linspace(0, 1, 2 * int(torch.tensor(shape).prod())).reshape(2, *shape)
    with atomic_file(path) as partial, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both exporters announce their own future, at length
        try:
            torch.onnx.export(
                network,
                (example,),
                str(partial),
                dynamo=False,
                opset_version=OPSET,
                input_names=["x"],
                output_names=["scores"],
                dynamic_axes={"x": {0: "n"}, "scores": {0: "n"}},
            )
        except (torch.onnx.errors.OnnxExporterError, torch.onnx.errors.UnsupportedOperatorError, TypeError):
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=20,
                input_names=["x"],
                output_names=["scores"],
                external_data=False,
                verbose=False,
                dynamic_shapes=({0: torch.export.Dim("n", min=1)},),
            )
            assert program is not None
            program.save(str(partial), external_data=False)
