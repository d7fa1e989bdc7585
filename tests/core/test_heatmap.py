"""Heat lies where the answer comes from: against closed forms and planted signs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from components.core import heatmap
from components.core.models import torch_onnx
from components.register import onnx_head

RNG = np.random.default_rng(0)


def test_grad_cam_of_a_mean_and_one_linear_layer_is_the_closed_form() -> None:
    """CAM: the map's channels weighted by the layer's weights (Zhou et al. 2016)."""
    features, weight = RNG.normal(size=(6, 5, 7)).astype(np.float32), RNG.normal(size=(2, 6))
    found = heatmap.grad_cam(features, lambda f: (f.mean((2, 3)) @ weight.T).astype(np.float32), [1], (5, 7))
    exact = np.maximum(np.tensordot(weight[1] - weight[0], features, axes=1), 0)
    assert found == pytest.approx(exact / exact.max(), abs=2e-3)


def network(spatial: int) -> torch.nn.Module:
    torch.manual_seed(3)
    conv, norm = (getattr(torch.nn, f"{layer}{spatial}d") for layer in ("Conv", "BatchNorm"))
    pool = getattr(torch.nn, f"AdaptiveAvgPool{spatial}d")

    class Residual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.n = conv(2, 8, 3, padding=1), conv(8, 8, 3, padding=1), norm(8)
            self.rest = torch.nn.Sequential(pool(1), torch.nn.Flatten(), torch.nn.Linear(8, 12), torch.nn.ReLU(), torch.nn.Linear(12, 3))

        def map(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.relu(self.a(x))
            return torch.relu(self.n(self.b(y)) + y)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rest(self.map(x))

    return Residual().eval()


@pytest.mark.parametrize(("spatial", "places"), [(1, (40,)), (2, (12, 14)), (3, (6, 7, 8))])
def test_the_heat_from_the_exported_graphs_is_grad_cam_by_gradients(spatial: int, places: tuple[int, ...], tmp_path: Path) -> None:
    """The oracle is torch's own gradient on the network's last map, in one, two and three dimensions."""
    module, path = network(spatial), tmp_path / "model.onnx"
    x = RNG.normal(size=(4, 2, *places)).astype(np.float32)
    torch_onnx.export(module, (2, *places), path)
    before = onnxruntime.InferenceSession(str(path)).run(["scores"], {"x": x})[0]
    assert onnx_head.add(path, x, spatial) is not None
    whole, head = (onnxruntime.InferenceSession(str(p)) for p in (path, tmp_path / heatmap.HEAD))
    scores, features = whole.run(["scores", heatmap.FEATURES], {"x": x})
    assert np.array_equal(scores, before)
    found = heatmap.grad_cam(features[0], lambda f: head.run(["scores"], {heatmap.FEATURES: f})[0], [2], places)

    kept = module.map(torch.from_numpy(x[:1])).detach().requires_grad_()
    s = module.rest(kept)[0]
    (s[2] - torch.logsumexp(s[:2], 0)).backward()
    assert kept.grad is not None
    axes = tuple(range(1, spatial + 1))
    exact = torch.relu((kept.grad[0].sum(axes)[(..., *[None] * spatial)] * kept[0].detach()).sum(0)).numpy()
    assert exact.max() > 0
    assert found == pytest.approx(exact / exact.max(), abs=0.02)


def test_occlusion_finds_the_planted_sign_in_each_number_of_dimensions() -> None:
    for places in ((64,), (36, 36), (14, 14, 14)):
        x = RNG.normal(0, 0.05, (1, *places)).astype(np.float32)
        centre = tuple(side // 4 for side in places)
        where = (0, *(slice(c - 1, c + 2) for c in centre))
        x[where] += 1

        def ask(batch: np.ndarray, where: tuple = where) -> np.ndarray:
            sign = batch[(slice(None), *where)].reshape(len(batch), -1).mean(1)
            return np.stack([np.zeros(len(batch)), 4 * sign], 1).astype(np.float32)

        heat = heatmap.occlusion(x, ask, [1])
        assert heat.shape == places
        hottest = np.unravel_index(int(heat.argmax()), places)
        assert all(abs(h - c) <= max(2, side // 7) for h, c, side in zip(hottest, centre, places, strict=True))
        assert heat.max() == 1
        assert heat[tuple(3 * side // 4 for side in places)] < 0.05


def test_nothing_speaks_for_the_class_is_no_heat() -> None:
    assert heatmap.occlusion(np.zeros((1, 8, 8), np.float32), lambda b: np.zeros((len(b), 2), np.float32), [1]).max() == 0
    assert heatmap.grad_cam(np.zeros((3, 4, 4), np.float32), lambda f: np.zeros((len(f), 2), np.float32), [1], (8, 8)).max() == 0


def test_scaling_keeps_places() -> None:
    heat = np.zeros((4, 4))
    heat[3, 0] = 2
    out = heatmap.scaled(heat, (16, 8))
    assert np.unravel_index(int(out.argmax()), out.shape)[0] >= 13
    assert out[14, 0] == 1
    assert out[:8].max() == 0
