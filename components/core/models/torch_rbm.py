"""Restricted Boltzmann machines: one visible and one hidden layer of stochastic units, no links inside a layer, trained by contrastive divergence.

Energy of a pair (v, h), with weights W (hidden x visible), hidden biases b and visible biases a:
    binary visible units    E = -a.v - b.h - h.W.v
    Gaussian visible units  E = |v - a|^2 / 2 - b.h - h.W.v     (unit variance: inputs are standardised)
The last `labels` visible units may be one softmax group, exactly one of which is on: a class joined to the inputs.

Hinton, Neural Computation 2002 and 2006; "A practical guide to training restricted Boltzmann machines", 2010.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

INITIAL_SD = 0.01


@dataclass(frozen=True)
class Rbm:
    """One machine.

    Args:
        weights: `weight` (hidden, visible), `hidden` (hidden,), `visible` (visible,).
        gaussian: Visible units (not the labels) are Gaussian with unit variance, else binary.
        labels: Size of the softmax group at the end of the visible units; 0 for none.
    """

    weights: nn.ParameterDict
    gaussian: bool = False
    labels: int = 0

    def hidden(self, v: torch.Tensor) -> torch.Tensor:
        """(N, visible) -> p(h = 1 | v), (N, hidden)."""
        import torch

        return torch.sigmoid(v @ self.weights["weight"].T + self.weights["hidden"])

    def visible(self, h: torch.Tensor) -> torch.Tensor:
        """(N, hidden) -> the mean of v given h, (N, visible): probabilities, or means of Gaussian units."""
        import torch

        inputs = h @ self.weights["weight"] + self.weights["visible"]
        plain, labels = inputs[:, : inputs.shape[1] - self.labels], inputs[:, inputs.shape[1] - self.labels :]
        plain = plain if self.gaussian else torch.sigmoid(plain)
        return torch.cat([plain, torch.softmax(labels, dim=1)], dim=1) if self.labels else plain

    def drawn_visible(self, h: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """v drawn from p(v | h)."""
        import torch

        mean = self.visible(h)
        plain, labels = mean[:, : mean.shape[1] - self.labels], mean[:, mean.shape[1] - self.labels :]
        plain = plain + torch.randn(plain.shape, generator=generator).to(plain.device) if self.gaussian else drawn(plain, generator)
        if not self.labels:
            return plain
        chosen = torch.multinomial(labels.cpu(), 1, generator=generator).to(labels.device)
        return torch.cat([plain, torch.zeros_like(labels).scatter_(1, chosen, 1.0)], dim=1)

    def free_energy(self, v: torch.Tensor) -> torch.Tensor:
        """(N, visible) -> F(v), (N,), with p(v) = exp(-F(v)) / Z."""
        from torch.nn import functional as F

        own, n = self.weights["visible"], v.shape[1] - self.labels
        softplus = F.softplus(v @ self.weights["weight"].T + self.weights["hidden"]).sum(dim=1)
        plain = 0.5 * (v[:, :n] - own[:n]).square().sum(dim=1) if self.gaussian else -(v[:, :n] @ own[:n])
        return plain - v[:, n:] @ own[n:] - softplus

    def contrast(self, v: torch.Tensor, *, steps: int, generator: torch.Generator) -> float:
        """Set the gradients of CD-`steps` on a batch, of the mean free energy's difference between data and reconstruction.

        Hidden states that are driven by data are drawn, since what they would carry as probabilities is more than a unit can; the last
        ones are probabilities, which only lowers the variance.

        Returns:
            Mean squared error of the first reconstruction.
        """
        import torch

        with torch.no_grad():
            first = self.hidden(v)
            h, made, error = first, v, 0.0
            for step in range(steps):
                h = drawn(h, generator)
                if step == 0:
                    error = (self.visible(h) - v).square().mean().item()
                made = self.drawn_visible(h, generator)
                h = self.hidden(made)
            n = len(v)
            self.weights["weight"].grad = (h.T @ made - first.T @ v) / n
            self.weights["hidden"].grad = (h - first).mean(dim=0)
            self.weights["visible"].grad = (made - v).mean(dim=0)
        return error


def rbm(n_visible: int, n_hidden: int, *, gaussian: bool = False, labels: int = 0) -> Rbm:
    """A fresh machine from torch's random state; `n_visible` counts the labels."""
    import torch
    from torch import nn

    return Rbm(
        nn.ParameterDict(
            {
                "weight": nn.Parameter(torch.randn(n_hidden, n_visible) * INITIAL_SD),
                "hidden": nn.Parameter(torch.zeros(n_hidden)),
                "visible": nn.Parameter(torch.zeros(n_visible)),
            }
        ),
        gaussian,
        labels,
    )


def drawn(p: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """0 or 1 with probability `p`; drawn on the CPU, so that every device draws the same."""
    import torch

    return (torch.rand(p.shape, generator=generator).to(p.device) < p).to(p.dtype)
