"""Numbers that the survey prints about convolutional networks, counted on layers that are built here: what a convolution shares and saves."""

from __future__ import annotations

import numpy as np
import pytest

from components.core.cores import wait_asleep

wait_asleep()
SIDE, KERNEL = 7, 3


def links(rows: int, kernel: int) -> np.ndarray:
    """(rows^2, rows^2) bool: which inputs a unit of a same-sized 2D convolution really depends on, found by poking one input at a time."""
    import torch

    layer = torch.nn.Conv2d(1, 1, kernel, padding=kernel // 2, bias=False)
    torch.nn.init.ones_(layer.weight)
    with torch.inference_mode():
        answers = layer(torch.eye(rows * rows).reshape(-1, 1, rows, rows))
    return answers.reshape(rows * rows, rows * rows).T.numpy() != 0


def test_full_connection_of_49_inputs_to_49_units_has_2401_weights():
    from torch import nn

    assert nn.Linear(SIDE * SIDE, SIDE * SIDE, bias=False).weight.numel() == 49 * 49 == 2401


def test_local_connection_has_441_weights_of_which_361_meet_the_image():
    """Nine weights for each of 49 units; at the border some would look past the image: (3 x 7 - 2)^2 do not."""
    from torch import nn

    unfolded = nn.Unfold(KERNEL, padding=KERNEL // 2)  # one patch of nine inputs for each unit: its own nine weights
    import torch

    patches = unfolded(torch.ones(1, 1, SIDE, SIDE))
    assert patches.shape == (1, 9, 49)
    assert patches.numel() == 441
    assert int(patches.sum()) == int(links(SIDE, KERNEL).sum()) == (3 * SIDE - 2) ** 2 == 361


def test_shared_kernel_has_nine_weights():
    from torch import nn

    assert nn.Conv2d(1, 1, KERNEL, padding=1, bias=False).weight.numel() == 9


def test_three_connections_are_one_function_when_the_weights_agree():
    """A full matrix that holds the kernel where links are, and zeros elsewhere, answers as the convolution does."""
    import torch

    kernel = torch.nn.Conv2d(1, 1, KERNEL, padding=1, bias=False)
    x = torch.rand(4, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        full = kernel(torch.eye(49).reshape(-1, 1, SIDE, SIDE)).reshape(49, 49)
        local = torch.nn.functional.unfold(x, KERNEL, padding=1).mul(kernel.weight.reshape(1, 9, 1)).sum(dim=1)
        assert int((full != 0).sum()) == 361
        assert torch.allclose(x.flatten(1) @ full, kernel(x).flatten(1), atol=1e-6)
        assert torch.allclose(local, kernel(x).flatten(1), atol=1e-6)


@pytest.mark.parametrize("method", ["max", "mean"])
def test_pooling_of_four_by_four_by_windows_of_two_gives_two_by_two(method: str):
    import torch

    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    pool = (torch.nn.MaxPool2d if method == "max" else torch.nn.AvgPool2d)(2, 2)
    assert pool(x)[0, 0].tolist() == {"max": [[5, 7], [13, 15]], "mean": [[2.5, 4.5], [10.5, 12.5]]}[method]


def test_network_of_figure_one_two_convolutions_two_poolings_one_dense_layer():
    """The small network without extras is that one: 4 x 4 pixels become 2 x 2 and 1 x 1. Weights by hand."""
    import torch
    from torch import nn

    from components.core.models.small_cnn import Architecture, network

    module = network(1, 2, Architecture(maps=(2, 3), blocks=0, batch_norm=False))
    sizes: list[tuple[int, ...]] = []
    for layer in module:
        if isinstance(layer, nn.MaxPool2d):
            layer.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[2:])))
    module(torch.zeros(1, 1, 4, 4))
    assert sizes == [(2, 2), (1, 1)]
    kinds = [type(layer) for layer in module]
    assert [kinds.count(kind) for kind in (nn.Conv2d, nn.MaxPool2d, nn.Linear)] == [2, 2, 1]
    assert sum(p.numel() for p in module.parameters()) == 2 * (9 + 1) + 3 * (2 * 9 + 1) + 2 * (2 * 3 + 1)
