"""A simulated head for T1-weighted MR: scalp, skull, CSF, folded cortex, white matter, ventricles, thalami, hippocampi.

All lengths in mm; the frame is RAS around the middle of the brain. Surfaces are soft over about half a voxel, which stands for partial volume.
What Alzheimer's disease does (hippocampi shrink and their place fills with CSF, ventricles widen, cortex thins, sulci open) is one number for
each structure, drawn in `draw_brain`; ageing does the same to everybody, only less. Ages are drawn a little higher with the disease
(`AGE_BY_CLASS`: 1.5 years at most, a quarter of their spread), sexes alike in all classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
CSF, GREY, WHITE, FAT, MUSCLE, SKULL = range(6)
SOFT_MM = 1.2
# Severity of the disease by class (control, mci, ad): mean; spread within a class makes the classes overlap.
SEVERITY, SEVERITY_SD = (0.0, 1.0, 2.3), 0.30
AGE_YEARS = {"target": (73.0, 6.5), "source": (38.0, 12.0)}
AGE_BY_CLASS = (0.0, 0.7, 1.5)
# (change per unit of severity, change per year over 70, spread between persons), all of the natural logarithm
HIPPOCAMPUS = (-0.52, -0.010, 0.18)
VENTRICLE = (0.22, 0.020, 0.32)
CORTEX = (-0.10, -0.004, 0.07)


@dataclass(frozen=True)
class Brain:
    """One person.

    Args:
        age: Years.
        size: Of the head along x, y, z, 1 on average.
        hippocampus: Volume of the left and the right one over the average.
        ventricle, cortex: Volume of the ventricles and thickness of the cortex, over the average.
        folds: (k, 6) waves of the cortical surface: direction (3), wavelength mm, phase, height mm.
    """

    age: float
    size: tuple[float, float, float]
    hippocampus: tuple[float, float]
    ventricle: float
    cortex: float
    folds: Floats
    tilt_rad: tuple[float, float, float]
    shift_mm: tuple[float, float, float]


def draw_brain(rng: np.random.Generator, *, label: int | None, domain: str) -> Brain:
    """One person of a class (None: healthy volunteers of the source domain, at any adult age)."""
    mean, sd = AGE_YEARS[domain]
    low, high = (55.0, 92.0) if domain == "target" else (18.0, 70.0)
    age = float(np.clip(rng.normal(mean + AGE_BY_CLASS[label or 0], sd), low, high))
    severity = SEVERITY[label] + rng.normal(0, SEVERITY_SD) if label is not None else rng.normal(0, SEVERITY_SD)

    def changed(law: tuple[float, float, float], n: int = 1) -> NDArray[np.float64]:
        return np.exp(law[0] * severity + law[1] * (age - 70) + rng.normal(0, law[2]) + rng.normal(0, 0.03, n))

    left, right = changed(HIPPOCAMPUS, 2)
    directions = rng.standard_normal((10, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    folds = np.column_stack([directions, rng.uniform(14, 34, 10), rng.uniform(0, 2 * np.pi, 10), rng.uniform(0.6, 1.6, 10)])
    x, y, z = np.clip(rng.normal(1, 0.03), 0.92, 1.08) * np.clip(rng.normal(1, 0.015, 3), 0.95, 1.05)
    return Brain(
        age=round(age, 1),
        size=(float(x), float(y), float(z)),
        hippocampus=(float(left), float(right)),
        ventricle=float(changed(VENTRICLE)[0]),
        cortex=float(changed(CORTEX)[0]),
        folds=folds.astype(np.float32),
        tilt_rad=tuple(float(v) for v in np.clip(rng.normal(0, 0.03, 3), -0.08, 0.08)),  # type: ignore[arg-type]
        shift_mm=tuple(float(v) for v in rng.uniform(-6, 6, 3)),  # type: ignore[arg-type]
    )


def signal(points: Floats, brain: Brain, tissue: tuple[float, ...]) -> Floats:
    """What a scanner with these tissue signals sees at points.

    Args:
        points: (n, 3), mm in the frame of the room.
        tissue: Signals by `CSF`, `GREY`, ...

    Returns:
        (n,), 0 in air.
    """
    p = _in_head(points, brain)
    t = np.asarray(tissue, dtype=np.float32)
    out = np.zeros(len(p), dtype=np.float32)
    skin = _depth(p, (0, -2, 2), (77, 96, 88))
    for under, kind in ((0, MUSCLE), (3, FAT), (6, SKULL)):
        _put(out, _soft(skin - np.float32(under)), t[kind])
    _put(out, _soft(42 - np.hypot(p[:, 0], p[:, 1] + np.float32(18))) * _soft(-p[:, 2] - np.float32(58)), t[MUSCLE])
    inner = np.flatnonzero(skin > 4)
    out[inner] = _inside_skull(p[inner], out[inner], brain, t)
    return out


def _inside_skull(p: Floats, out: Floats, brain: Brain, t: Floats) -> Floats:
    """CSF, cortex and white matter, then what lies deep in it."""
    thin = 2 - brain.cortex
    surface = _depth(p, (0, 0, 4), (67, 83, 67))
    _put(out, _soft(surface + 1), t[CSF])
    shell = np.flatnonzero((surface > -2) & (surface < 22))
    depth = surface - np.float32(3.5 * thin)  # sulci open as the cortex thins
    wave = np.zeros_like(depth)
    wave[shell] = _folds(p[shell], brain)
    depth -= wave
    _put(out, _soft(depth), t[GREY])
    below = np.asarray(depth - np.float32(6.5 * brain.cortex) + wave * np.float32(0.6), dtype=np.float32)
    _put(out, _soft(below), t[WHITE])
    _put(
        out, _soft(np.float32(1.6 * thin) - np.abs(p[:, 0])) * _soft(p[:, 2] - np.float32(22)) * _soft(depth + np.float32(3)), t[CSF]
    )  # between the hemispheres
    _put(out, _ellipsoid(p, (0, -50, -42), (44, 26, 20)), t[GREY])  # cerebellum and stem
    _put(out, _ellipsoid(p, (0, -28, -48), (13, 12, 30)), t[WHITE])
    low, high = np.array([-42, -54, -32], np.float32), np.array([42, 40, 44], np.float32)
    deep = np.flatnonzero(((p > low) & (p < high)).all(axis=1))
    out[deep] = _deep(p[deep], out[deep], brain, t)
    return out


def _deep(p: Floats, out: Floats, brain: Brain, t: Floats) -> Floats:
    """Nuclei, ventricles and hippocampi."""
    wide = float(np.cbrt(brain.ventricle))
    for side in (-1, 1):
        _put(out, _ellipsoid(p, (side * 17, -8, 6), (9, 15, 10)), t[GREY])  # thalamus and basal ganglia
        _put(out, _ellipsoid(p, (side * 11, -2, 17), (5.5 * wide, 30 * wide**0.5, 8.5 * wide)), t[CSF])  # body of the lateral ventricle
        _put(out, _ellipsoid(p, (side * 21, -38, 8), (5.5 * wide, 10 * wide, 12 * wide)), t[CSF])  # its posterior horn
        small = float(np.cbrt(brain.hippocampus[0 if side < 0 else 1]))
        _put(out, _ellipsoid(p, (side * 27, -20, -16), (14, 25, 13)), t[WHITE])
        _put(out, _ellipsoid(p, (side * 27, -20, -16), (11.8, 22.5, 11.0)), t[CSF])  # temporal horn: what the hippocampus leaves
        _put(out, _ellipsoid(p, (side * 27, -20, -16.8), (11.2 * small, 21.8 * small, 10.4 * small)), t[GREY])
    _put(out, _ellipsoid(p, (0, -10, 4), (2.2 * wide, 12, 10)), t[CSF])  # third ventricle
    return out


def _put(out: Floats, inside: Floats, value: np.float32) -> None:
    out += (value - out) * inside


def _in_head(points: Floats, brain: Brain) -> Floats:
    """Points in the frame of the head: shifted, tilted, scaled to the average head."""
    a, b, c = brain.tilt_rad
    rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    turn = (rz @ ry @ rx / np.asarray(brain.size)).astype(np.float32)
    return np.asarray((points - np.asarray(brain.shift_mm, np.float32)) @ turn, dtype=np.float32)


def _depth(p: Floats, centre: tuple[float, ...], half: tuple[float, ...]) -> Floats:
    """About how many mm inside an ellipsoid a point lies; negative outside."""
    h = np.asarray(half, np.float32)
    scaled = (p - np.asarray(centre, np.float32)) / h
    square = scaled * scaled
    radius = np.sqrt(square.sum(axis=1)) + np.float32(1e-6)
    return (1 - radius) * radius / (np.sqrt(square @ (1 / (h * h))) + np.float32(1e-6))


def _ellipsoid(p: Floats, centre: tuple[float, ...], half: tuple[float, ...]) -> Floats:
    return _soft(_depth(p, centre, half))


def _soft(inside_mm: Floats) -> Floats:
    """0 well outside, 1 well inside."""
    return np.clip(inside_mm / np.float32(2 * SOFT_MM) + np.float32(0.5), np.float32(0), np.float32(1))


def _folds(p: Floats, brain: Brain) -> Floats:
    """Height of the cortical folds, mm."""
    phase = p @ (brain.folds[:, :3] * (np.float32(2 * np.pi) / brain.folds[:, 3:4])).T + brain.folds[:, 4]
    return np.sin(phase) @ brain.folds[:, 5]
