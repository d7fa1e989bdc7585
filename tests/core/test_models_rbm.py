"""Restricted Boltzmann machines against brute-force enumeration of every state."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from components.core.models.torch_rbm import Rbm, drawn, rbm


def states(n: int) -> torch.Tensor:
    """All 2^n binary vectors."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64)


def tiny(visible: int = 4, hidden: int = 3, seed: int = 0, **options: Any) -> Rbm:
    torch.manual_seed(seed)
    machine = rbm(visible, hidden, **options)
    machine.weights.double()
    with torch.no_grad():
        for parameter in machine.weights.values():
            parameter.copy_(torch.randn(parameter.shape, dtype=torch.float64))
    return machine


def energy(machine: Rbm, v: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """E of every pair, written out: (all v, all h)."""
    w = machine.weights
    return -(v @ w["visible"])[:, None] - (h @ w["hidden"])[None] - v @ w["weight"].T @ h.T


def test_conditionals_and_probability_of_a_state_are_those_of_enumeration():
    machine = tiny()
    v, h = states(4), states(3)
    with torch.no_grad():
        joint = torch.exp(-energy(machine, v, h))
        joint /= joint.sum()
        assert torch.allclose(machine.hidden(v), (joint @ h) / joint.sum(dim=1, keepdim=True))
        assert torch.allclose(machine.visible(h), (joint.T @ v) / joint.sum(dim=0)[:, None])
        p = torch.softmax(-machine.free_energy(v), dim=0)
        assert torch.allclose(p, joint.sum(dim=1))


def test_free_energy_of_gaussian_units_is_the_integral_over_hidden_states():
    machine = tiny(gaussian=True)
    v, h, w = torch.randn(5, 4, dtype=torch.float64), states(3), machine.weights
    with torch.no_grad():
        pairs = 0.5 * (v - w["visible"]).square().sum(dim=1)[:, None] - (h @ w["hidden"])[None] - v @ w["weight"].T @ h.T
        assert torch.allclose(machine.free_energy(v), -torch.logsumexp(-pairs, dim=1))
        # The mean of v given h completes the square: a + hW.
        assert torch.allclose(machine.visible(h), w["visible"] + h @ w["weight"])


def test_label_group_is_a_softmax_and_its_class_probabilities_are_those_of_enumeration():
    machine = tiny(visible=5, labels=2)
    v, h = states(3), states(3)
    with torch.no_grad():
        pairs = [torch.cat([v, torch.eye(2, dtype=torch.float64)[k].expand(len(v), 2)], dim=1) for k in range(2)]
        weights = torch.stack([torch.exp(-energy(machine, pair, h)).sum(dim=1) for pair in pairs], dim=1)
        assert torch.allclose(
            torch.softmax(-torch.stack([machine.free_energy(pair) for pair in pairs], dim=1), dim=1), weights / weights.sum(1, True)
        )
        assert torch.allclose(machine.visible(h)[:, 3:].sum(dim=1), torch.ones(8, dtype=torch.float64))
        made = machine.drawn_visible(h, torch.Generator().manual_seed(0))
        assert torch.equal(made[:, 3:].sum(dim=1), torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize("steps", [1, 10])
def test_contrastive_divergence_points_along_the_exact_gradient(steps: int):
    """The mean of many CD gradients against d(-log p)/dW by enumeration; more steps come closer."""
    machine = tiny(seed=1)
    with torch.no_grad():
        for parameter in machine.weights.values():
            parameter.mul_(0.5)
    v = states(4)[[1, 3, 3, 7, 15, 8, 1, 0]]
    everything = states(4)
    loss = machine.free_energy(v).mean() + torch.logsumexp(-machine.free_energy(everything), dim=0)
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(machine.weights.values()))])
    generator = torch.Generator().manual_seed(0)
    machine.contrast(v.repeat(4000, 1), steps=steps, generator=generator)
    mean = torch.cat([p.grad.flatten() for p in machine.weights.values() if p.grad is not None])
    assert float(torch.corrcoef(torch.stack([exact, mean]))[0, 1]) > (0.9 if steps == 1 else 0.98)


def test_training_raises_the_likelihood_of_the_data():
    torch.manual_seed(0)
    machine = rbm(4, 8)
    v = states(4)[[0, 15]].float().repeat(20, 1)
    optimiser, generator = torch.optim.SGD(machine.weights.values(), lr=0.5), torch.Generator().manual_seed(0)

    def probability() -> float:
        with torch.no_grad():
            return float(torch.softmax(-machine.free_energy(states(4).float()), dim=0)[[0, 15]].sum())

    before = probability()
    for _ in range(200):
        machine.contrast(v, steps=1, generator=generator)
        optimiser.step()
    assert before == pytest.approx(2 / 16, abs=0.01)
    assert probability() > 0.8


def test_drawn_units_are_on_as_often_as_their_probability():
    p = torch.full((20000, 3), 0.0) + torch.tensor([0.0, 0.3, 1.0])
    assert drawn(p, torch.Generator().manual_seed(0)).mean(dim=0).tolist() == pytest.approx([0.0, 0.3, 1.0], abs=0.01)
