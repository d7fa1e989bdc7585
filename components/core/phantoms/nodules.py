"""Simulated lung nodules: what decides how they look, what they are made of, and how readers rate them.

One hidden number, `t`, says how malignant a nodule looks: about -1 for benign and +1 for malignant ones, with overlap. Every feature that
readers describe depends on `t` and on its own chance, so no single one tells the classes apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
READERS = 4
BUBBLE_STRETCH = np.array([0.35, 1, 1], dtype=np.float32)  # airways cross the slices more often than they run in them


@dataclass(frozen=True)
class Nodule:
    """One nodule in millimetres, about its own centre; axes are (z, y, x).

    Args:
        t: How malignant it looks.
        centre_mm: Position in the volume.
        radius_mm: Mean radius.
        stretch: (3, 3) linear map from space to the unit sphere's space, times radius: the ellipsoid.
        lobes, spicules: (n, 3) unit vectors; `lobulation` and `reach` are relative to the radius.
        edge_mm: Width of the margin.
        solid_hu, rim_hu, core: Density of the core and of what surrounds it, and the share of the radius that the core takes (1: solid).
        grain: (n, 4) inner texture: wave vectors per mm and phase; `grain_hu` its amplitude.
        bubbles: (n, 4) lucencies, as small airways leave: centre in mm and radius; `bubble_hu` is how much darker they are.
        calcium_hu, calcium_share: Central calcification, and the share of the radius that it takes.
        seen: Chance that a reader marks it.
    """

    t: float
    centre_mm: Floats
    radius_mm: float
    stretch: Floats
    lobes: Floats
    lobulation: float
    spicules: Floats
    reach: Floats
    edge_mm: float
    solid_hu: float
    rim_hu: float
    core: float
    grain: Floats
    grain_hu: float
    bubbles: Floats
    bubble_hu: float
    calcium_hu: float
    calcium_share: float
    seen: float

    @property
    def extent_mm(self) -> float:
        """Beyond this distance from the centre there is nothing of it."""
        longest = float(self.reach.max()) if len(self.reach) else 0.0
        return self.radius_mm * max(1.35 * (1 + 1.5 * self.lobulation), 1 + longest) + 3 * self.edge_mm + 0.5

    def depth(self, p: Floats) -> Floats:
        """(..., 3) mm from the centre -> distance over the surface's distance in that direction: 0 at the centre, 1 on the surface."""
        q = p @ self.stretch
        r = np.sqrt(_square(q)) + np.float32(1e-6)
        surface = np.ones_like(r)
        for lobe in self.lobes:
            surface += np.float32(self.lobulation) * np.exp(np.float32(5) * ((q @ lobe) / r - 1))
        return r / surface

    def render(self, p: Floats) -> tuple[Floats, Floats, Floats]:
        """(..., 3) mm from the centre -> opacity in [0, 1], density in HU, HU of calcium; each (...)."""
        depth = self.depth(p)
        inside = (1 - depth) * np.float32(self.radius_mm)  # mm below the surface
        opacity = _rise(inside / np.float32(self.edge_mm))
        core = _rise((np.float32(self.core) - depth) * np.float32(self.radius_mm / 0.6)) if self.core < 1 else np.float32(1)
        density = np.float32(self.rim_hu) + np.float32(self.solid_hu - self.rim_hu) * core
        if self.grain_hu > 0:
            for wave in self.grain:
                density = density + np.float32(self.grain_hu) * np.sin(p @ wave[:3] + wave[3])
        for bubble in self.bubbles:
            near = _square((p - bubble[:3]) * BUBBLE_STRETCH) / np.float32(bubble[3] ** 2)
            density = density - np.float32(self.bubble_hu) * np.exp(-near * near)
        for axis, reach in zip(self.spicules, self.reach, strict=True):
            along = p @ axis
            across = _square(p) - along * along
            end = np.float32(self.radius_mm * (1 + reach))
            # A spicule starts inside, tapers from 0.9 mm to nothing and ends at `end`.
            width = np.clip((end - along) / np.float32(max(self.radius_mm * reach, 0.5)), 0, 1) * np.float32(0.85) + np.float32(0.05)
            line = np.exp(-across / (2 * width * width)) * ((along > 0) & (along < end))
            np.maximum(opacity, line.astype(np.float32) * np.float32(0.9), out=opacity)
        calcium = np.zeros_like(opacity)
        if self.calcium_hu > 0:
            calcium = np.float32(self.calcium_hu) * _rise((np.float32(self.calcium_share) - depth) * np.float32(self.radius_mm / 0.5))
        return opacity, np.broadcast_to(density, opacity.shape).astype(np.float32), calcium


def draw_nodule(rng: np.random.Generator, *, centre_mm: Floats) -> Nodule:
    """A nodule of either kind at `centre_mm`."""
    t = float(rng.choice((-1.0, 1.0)) + rng.normal(0, 0.5))

    def sign(weight: float) -> float:
        """A feature's own reading of `t`: `weight` of it, the rest chance; standard deviation about 1."""
        return float(weight * t + np.sqrt(max(0.0, 1 - weight**2)) * rng.normal())

    radius = float(np.clip(4.2 * np.exp(0.28 * sign(0.2)), 2.4, 8.5))
    axes = np.exp(rng.normal(0, 0.12, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    stretch = turn @ np.diag(1 / (axes * radius)) @ turn.T
    spiky = 1 / (1 + np.exp(-2.6 * sign(0.84)))
    spikes = int(rng.poisson(17 * spiky**1.5))
    directions = rng.normal(size=(spikes, 3)) * (0.4, 1, 1)
    lobulation = float(np.clip(0.16 + 0.13 * sign(0.35), 0, 0.45))
    part_solid = rng.random() < 1 / (1 + np.exp(-(0.5 * t - 1.6)))
    # Fat and calcium speak against malignancy; both are told from soft tissue by their Hounsfield units alone.
    kind = rng.random() * (1 + np.exp(2.5 * t))
    fatty, calcified = kind < 0.36, 0.36 <= kind < 0.66
    wave = rng.normal(size=(4, 3)) * (2 * np.pi / 14.0)
    airy = 1 / (1 + np.exp(-3.2 * sign(0.95)))
    holes = int(rng.poisson(0.5 * radius**1.3 * airy**1.5))
    spots = _unit(rng.normal(size=(holes, 3))) * (radius * rng.uniform(0, 0.8, (holes, 1)))
    return Nodule(
        t=t,
        centre_mm=np.asarray(centre_mm, np.float32),
        radius_mm=radius,
        stretch=stretch.astype(np.float32),
        lobes=_unit(rng.normal(size=(int(rng.integers(3, 7)), 3))),
        lobulation=lobulation,
        spicules=_unit(directions),
        reach=(rng.uniform(0.4, 1.1, spikes) * (0.6 + 0.6 * spiky)).astype(np.float32),
        edge_mm=float(np.clip(0.45 * np.exp(0.45 * sign(0.3)), 0.15, 1.6)),
        solid_hu=float(rng.normal(-95, 20) if fatty else rng.normal(30, 15)),
        rim_hu=float(rng.normal(-480, 70)) if part_solid else float(rng.normal(-95, 20) if fatty else rng.normal(25, 15)),
        core=float(rng.uniform(0.35, 0.75)) if part_solid else 1.0,
        grain=np.concatenate([wave, rng.uniform(0, 2 * np.pi, (4, 1))], axis=1).astype(np.float32),
        grain_hu=float(np.clip(45 - 30 * (airy - 0.5) + 15 * rng.normal(), 0, 80)),
        bubbles=np.concatenate([spots, rng.uniform(0.8, 1.2, (holes, 1))], axis=1).astype(np.float32),
        bubble_hu=float(rng.uniform(300, 450)),
        calcium_hu=float(rng.uniform(250, 700)) if calcified else 0.0,
        calcium_share=float(rng.uniform(0.3, 0.8)),
        seen=0.45 if rng.random() < 0.08 else 0.97,
    )


def ratings(nodule: Nodule, rng: np.random.Generator) -> dict[str, int]:
    """One reader's nine characteristics, on the LIDC scales.

    Source:
        McNitt-Gray et al., Academic Radiology 2007: subtlety to malignancy 1-5, internalStructure 1-4, calcification 1-6.
    """

    def scale(value: float, spread: float = 0.5) -> int:
        return int(np.clip(np.rint(value + rng.normal(0, spread)), 1, 5))

    return {
        "subtlety": scale(2.5 + nodule.radius_mm / 3),
        "internalStructure": 1,
        "calcification": (3 if nodule.calcium_share > 0.5 else 4) if nodule.calcium_hu > 0 else 6,
        "sphericity": scale(4.5 - 4 * nodule.lobulation),
        "margin": scale(5.2 - 2.6 * nodule.edge_mm),
        "lobulation": scale(1 + 9 * nodule.lobulation),
        "spiculation": scale(1 + 0.25 * len(nodule.spicules)),
        "texture": scale(5 if nodule.core >= 1 else 2.5),
        "malignancy": scale(3 + 1.7 * nodule.t, 0.6),
    }


def _square(p: Floats) -> Floats:
    return p[..., 0] ** 2 + p[..., 1] ** 2 + p[..., 2] ** 2


def _rise(x: Floats) -> Floats:
    """A smooth step from 0 to 1 about x = 0."""
    return (0.5 + 0.5 * np.tanh(x)).astype(np.float32)


def _unit(vectors: NDArray[np.float64]) -> Floats:
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)).astype(np.float32)
