"""The back of an eye as a fundus camera would see it, drawn: disc, macula, vessels, and the signs of diabetic retinopathy by grade.

The scene is the light that the retina gives back, red, green and blue in [0, 1], over a square whose side is 2 `REACH`; 1 is about the radius
of a 45-degree photograph. Which signs make which grade follows the International Clinical Diabetic Retinopathy scale: microaneurysms only
(mild); more of them with haemorrhages or exudates (moderate); many haemorrhages in all quadrants (severe); new vessels or a haemorrhage in
front of the retina (proliferative). Healthy eyes have drusen and pigment spots, which look like signs and are none.

Source:
    Wilkinson et al., Ophthalmology 2003 (the scale).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms.photographs import axes, blurred, rgb, smooth

GRADES = ("none", "mild", "moderate", "severe", "proliferative")
REACH = 1.15
SCENE = 176  # pixels of a scene's side
FINE = 2  # lines are drawn at this many times the scene's resolution
DISC = (0.52, 0.0)  # centre of the optic disc of a right eye
Floats = NDArray[np.floating]


def eye(rng: np.random.Generator, grade: int, *, left: bool) -> tuple[Floats, Floats]:
    """One eye.

    Args:
        grade: 0 to 4, as in `GRADES`.
        left: A left eye is a right one mirrored.

    Returns:
        The scene (SCENE, SCENE, 3), and where a sign of retinopathy is drawn, (SCENE, SCENE) in [0, 1].
    """
    x, y = (a * np.float32(REACH) for a in axes(SCENE))
    scene = _ground(rng, x, y)
    vessels = _Ink()
    _vessels(rng, vessels)
    scene = scene * (1 - vessels.plane()[..., None] * rgb((0.28, 0.55, 0.40)))
    scene = _lookalikes(rng, scene)
    scene, signs = _signs(rng, scene, grade)
    return (scene[:, ::-1], signs[:, ::-1]) if left else (scene, signs)


class _Ink:
    """A grey plane to draw on, in scene units."""

    def __init__(self) -> None:
        from PIL import Image, ImageDraw

        self.side = SCENE * FINE
        self.image = Image.new("L", (self.side, self.side))
        self.draw = ImageDraw.Draw(self.image)

    def pixel(self, points: Any) -> list[tuple[float, float]]:
        return [(float(a), float(b)) for a, b in (np.asarray(points) / REACH + 1) / 2 * self.side]

    def line(self, points: Any, width: float, ink: int) -> None:
        pixels = max(1, round(width / REACH / 2 * self.side))
        self.draw.line(self.pixel(points), fill=ink, width=pixels, joint="curve")

    def blob(self, points: Any, ink: int = 255) -> None:
        self.draw.polygon(self.pixel(points), fill=ink)

    def plane(self, sigma: float = 0.6) -> Floats:
        """(SCENE, SCENE) in [0, 1]."""
        if self.image.getbbox() is None:
            return np.zeros((SCENE, SCENE), dtype=np.float32)
        return blurred(np.asarray(self.image.reduce(FINE), dtype=np.float32) / 255, sigma)


def _ground(rng: np.random.Generator, x: Floats, y: Floats) -> Floats:
    """Pigment, choroid, macula and optic disc."""
    colour = rgb((0.76, 0.40, 0.20)) * np.float32(1 + 0.10 * rng.standard_normal()) * (1 + np.float32(0.07) * rng.standard_normal(3, np.float32))
    mottled = 0.05 * smooth(rng, SCENE, 7) + 0.035 * smooth(rng, SCENE, 26)
    scene = colour * (1 + mottled[..., None] * rgb((0.7, 1.0, 1.0)))
    fovea = rng.normal((-0.02, 0.02), 0.03)
    macula = np.exp(-((x - fovea[0]) ** 2 + (y - fovea[1]) ** 2) / np.float32(2 * rng.uniform(0.10, 0.15) ** 2))
    scene *= 1 - np.float32(rng.uniform(0.25, 0.4)) * macula[..., None] * rgb((0.6, 1.0, 1.0))
    tall = rng.uniform(0.125, 0.16)
    distance = np.hypot((x - DISC[0]) / np.float32(tall * 0.88), (y - DISC[1]) / np.float32(tall))
    disc, cup = _edge(1 - distance, 0.12), _edge(rng.uniform(0.35, 0.6) - distance, 0.15)
    scene += (rgb((0.97, 0.78, 0.50)) - scene) * disc[..., None] * np.float32(0.85)
    scene += (rgb((1.0, 0.93, 0.75)) - scene) * cup[..., None] * np.float32(0.6)
    return scene.astype(np.float32)


def _edge(depth: Floats, width: float) -> Floats:
    return np.clip(depth / np.float32(width) + np.float32(0.5), 0, 1)


def _vessels(rng: np.random.Generator, ink: _Ink) -> None:
    """Four pairs of an artery and a wider, darker vein; the temporal ones arch around the macula."""
    for up in (-1, 1):
        for temporal in (True, False):
            for wide, dark in ((0.026, 150), (0.036, 235)):
                t = np.linspace(0, 1, 26)
                if temporal:
                    high = rng.uniform(0.48, 0.66)
                    path = np.stack([DISC[0] - 1.55 * t, up * high * np.sin(np.pi * (0.10 + 0.62 * t) * 1.1) * np.minimum(1, t * 4)], 1)
                else:
                    angle = up * rng.uniform(0.45, 1.1)
                    path = np.stack([DISC[0] + 0.75 * t * np.cos(angle), 0.95 * t * np.sin(angle)], 1)
                path += np.cumsum(rng.normal(0, 0.008, path.shape), 0)
                _tapered(ink, path, wide, dark)
                for start in rng.integers(4, 22, size=int(rng.integers(2, 5))):
                    ahead = path[start + 1] - path[start]
                    angle = np.arctan2(ahead[1], ahead[0]) + rng.choice((-1, 1)) * rng.uniform(0.4, 0.9)
                    branch = path[start] + _wander(rng, angle, rng.uniform(0.25, 0.6), 12, 0.12)
                    _tapered(ink, branch, wide * 0.55, dark)


def _tapered(ink: _Ink, path: NDArray[Any], width: float, dark: int) -> None:
    for n in range(0, len(path) - 1, 3):
        ink.line(path[n : n + 4], width * (1 - 0.65 * n / len(path)), dark)


def _wander(rng: np.random.Generator, angle: float, length: float, steps: int, bend: float) -> NDArray[Any]:
    """A path from (0, 0) that bends a little at every step."""
    angles = angle + np.cumsum(rng.normal(0, bend, steps))
    return np.concatenate([np.zeros((1, 2)), np.cumsum(np.stack([np.cos(angles), np.sin(angles)], 1) * length / steps, 0)])


def _place(rng: np.random.Generator, reach: float = 0.78) -> NDArray[Any]:
    """A point of the photographed retina outside the disc."""
    while True:
        r, angle = reach * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        point = np.array([r * np.cos(angle), r * np.sin(angle)])
        if np.hypot(*(point - DISC)) > 0.22:
            return point


def _outline(rng: np.random.Generator, centre: NDArray[Any], radius: float, rough: float) -> NDArray[Any]:
    """A closed, irregular outline."""
    angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
    radii = radius * (1 + rough * rng.standard_normal(14))
    stretch = rng.uniform(0.75, 1.25)
    return centre + np.stack([np.cos(angles) * radii * stretch, np.sin(angles) * radii / stretch], 1)


def _lookalikes(rng: np.random.Generator, scene: Floats) -> Floats:
    """Drusen (pale, soft) and pigment (dark in all colours alike): in any eye, without meaning."""
    drusen, pigment = _Ink(), _Ink()
    for _ in range(rng.poisson(2.5)):
        drusen.blob(_outline(rng, _place(rng, 0.6), rng.uniform(0.018, 0.035), 0.1))
    for _ in range(rng.poisson(4.0)):
        pigment.blob(_outline(rng, _place(rng), rng.uniform(0.018, 0.05), 0.2))
    scene = scene + (rgb((0.85, 0.66, 0.36)) - scene) * drusen.plane(1.6)[..., None] * np.float32(0.6)
    return scene * (1 - np.float32(0.4) * pigment.plane(1.0)[..., None])


def _signs(rng: np.random.Generator, scene: Floats, grade: int) -> tuple[Floats, Floats]:
    """Draw what the grade means; the scene, and where."""
    aneurysms, bleeding, exudates, cotton, new = _Ink(), _Ink(), _Ink(), _Ink(), _Ink()
    few = ((0, 0), (2, 6), (3, 9), (5, 14), (2, 14))[grade]
    for _ in range(int(rng.integers(few[0], few[1] + 1)) if grade else 0):
        aneurysms.blob(_outline(rng, _place(rng), rng.uniform(0.019, 0.029), 0.05))
    blots = ((0, 0), (0, 0), (1, 5), (9, 20), (1, 12))[grade]
    for _ in range(int(rng.integers(blots[0], blots[1] + 1)) if grade > 1 else 0):
        bleeding.blob(_outline(rng, _place(rng, 0.85), rng.uniform(0.028, 0.062), 0.25))
    if grade > 1 and rng.random() < 0.6:
        around = _place(rng, 0.45)
        for _ in range(int(rng.integers(4, 16))):
            exudates.blob(_outline(rng, around + rng.normal(0, 0.12, 2), rng.uniform(0.010, 0.028), 0.3))
    if grade > 2 and rng.random() < 0.6:
        for _ in range(int(rng.integers(1, 4))):
            cotton.blob(_outline(rng, _place(rng, 0.7), rng.uniform(0.05, 0.09), 0.25))
    if grade == 4:
        heart = np.array(DISC) if rng.random() < 0.5 else _place(rng, 0.6)
        for _ in range(int(rng.integers(9, 18))):
            new.line(heart + rng.normal(0, 0.04, 2) + _wander(rng, rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.38), 14, 0.6), 0.013, 255)
        if rng.random() < 0.4:
            spot, wide = _place(rng, 0.5), rng.uniform(0.12, 0.24)
            angles = np.linspace(0, np.pi, 16)
            new.blob(spot + np.stack([wide * np.cos(angles), 0.7 * wide * np.sin(angles)], 1))
    planes = [aneurysms.plane(), bleeding.plane(), exudates.plane(), cotton.plane(3.0), new.plane()]
    for plane, left in ((planes[0], (0.86, 0.52, 0.60)), (planes[1], (0.74, 0.46, 0.55)), (planes[4], (0.74, 0.48, 0.55))):
        scene = scene * (1 - plane[..., None] * (1 - rgb(left)))
    for plane, colour, share in ((planes[2], (0.95, 0.82, 0.44), 0.65), (planes[3], (0.88, 0.74, 0.50), 0.45)):
        scene = scene + (rgb(colour) - scene) * plane[..., None] * np.float32(share)
    return scene.astype(np.float32), np.max(planes, axis=0)
