"""Skin with one lesion, drawn: what each of seven diagnoses shows through a dermatoscope.

The scene is the light that skin gives back, red, green and blue in [0, 1], over a square of side 2. Lesions follow the ABCD rule: malignant
ones tend to be asymmetric, with an irregular border that ends abruptly in places, several colours and several structures. None of it is
certain: a third of the melanomas are early and look like moles, a third of the moles are atypical, and benign lesions may be inflamed.

Source:
    Nachbar et al., J Am Acad Dermatol 1994 (ABCD rule); Tschandl et al., Sci Data 2018 (the seven diagnoses of HAM10000).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms.photographs import axes, rgb, smooth

SCENE = 144  # pixels of a scene's side
Floats = NDArray[np.floating]
BROWN, DARK, TAN, BLACK = (0.46, 0.28, 0.17), (0.30, 0.17, 0.11), (0.64, 0.44, 0.29), (0.13, 0.09, 0.08)
BLUE, WHITE, PINK, RED, YELLOW, PURPLE = (
    (0.36, 0.38, 0.47),
    (0.88, 0.80, 0.76),
    (0.84, 0.52, 0.48),
    (0.66, 0.22, 0.20),
    (0.80, 0.66, 0.40),
    (0.48, 0.20, 0.34),
)


class Canvas:
    """Skin under the drawing hand of a lesion; `image` is (SCENE, SCENE, 3), `inside` the lesion's opacity in [0, 1]."""

    def __init__(self, rng: np.random.Generator, *, radius: float, rough: float, long: float, edge: float, abrupt: float = 0.0) -> None:
        self.rng = rng
        self.x, self.y = axes(SCENE)
        self.image = skin(rng)
        centre, turn = rng.normal(0, 0.07, 2), rng.uniform(0, np.pi)
        u, v = self.x - np.float32(centre[0]), self.y - np.float32(centre[1])
        stretch = np.float32(1 + long)
        a = (u * np.cos(turn) + v * np.sin(turn)).astype(np.float32) / stretch
        b = (v * np.cos(turn) - u * np.sin(turn)).astype(np.float32) * stretch
        self.angle = np.arctan2(b, a)
        reach = np.full_like(a, radius)
        width = np.full_like(a, edge)
        for k in range(2, 9):
            wave = np.cos(k * self.angle + np.float32(rng.uniform(0, 2 * np.pi)))
            reach *= 1 + np.float32(rough * rng.normal() / np.sqrt(k)) * wave
        if abrupt:
            width *= 1 - np.float32(abrupt) * (np.cos(self.angle - np.float32(rng.uniform(0, 2 * np.pi))) > 0)
        self.depth = (reach - np.hypot(a, b)).astype(np.float32)  # from the border inwards, in scene units
        self.inside = np.clip(self.depth / width + np.float32(0.5), 0, 1)
        self.radius = radius

    def paint(self, colour: tuple[float, float, float], where: Floats, share: float = 1.0) -> None:
        """Cover `where` (in [0, 1]) with a colour, inside the lesion or not."""
        vary = rgb(colour) * np.float32(1 + 0.06 * self.rng.standard_normal())
        self.image += (vary - self.image) * (where * np.float32(share))[..., None]

    def fill(self, colour: tuple[float, float, float], share: float = 0.9) -> None:
        self.paint(colour, self.inside, share)

    def patch(self, colour: tuple[float, float, float], *, size: float, away: float, share: float = 0.8) -> None:
        """An irregular area of another colour whose middle lies `away` radii from the lesion's."""
        turn = self.rng.uniform(-np.pi, np.pi)
        u, v = (self.x - self.radius * away * np.cos(turn)).astype(np.float32), (self.y - self.radius * away * np.sin(turn)).astype(np.float32)
        wobble = np.float32(0.05) * smooth(self.rng, SCENE, 6)
        self.paint(colour, np.clip((self.radius * size - np.hypot(u, v) + wobble) / np.float32(0.08) + np.float32(0.5), 0, 1) * self.inside, share)

    def network(self, *, pitch: float, strength: float, irregular: float) -> None:
        """A pigment network: dark lines around light holes."""
        bend = np.float32(irregular) * smooth(self.rng, SCENE, 5)
        k, turn = np.float32(2 * np.pi / pitch), self.rng.uniform(0, np.pi)
        p, q = (self.x * np.cos(turn) + self.y * np.sin(turn)).astype(np.float32), (self.y * np.cos(turn) - self.x * np.sin(turn)).astype(np.float32)
        lines = np.maximum(np.cos(k * p + bend), np.cos(k * q + bend)) ** 2
        patchy = np.clip(1 + np.float32(irregular) * smooth(self.rng, SCENE, 4), 0, 1.5)
        self.image *= 1 - (np.float32(strength) * lines * patchy * self.inside)[..., None]

    def spots(self, colour: tuple[float, float, float], count: int, size: tuple[float, float], share: float = 0.8, *, spread: float = 0.8) -> None:
        """Round spots over the lesion: globules, dots, cysts, lacunae."""
        where = np.zeros_like(self.x)
        for _ in range(count):
            r, turn, width = self.radius * spread * np.sqrt(self.rng.random()), self.rng.uniform(0, 2 * np.pi), self.rng.uniform(*size)
            u, v = self.x - np.float32(r * np.cos(turn)), self.y - np.float32(r * np.sin(turn))
            where = np.maximum(where, np.clip((width - np.hypot(u, v)) / np.float32(0.02) + np.float32(0.5), 0, 1))
        self.paint(colour, where * self.inside, share)

    def vessels(self, count: int) -> None:
        """Branching red lines."""
        where = np.zeros_like(self.x)
        for _ in range(count):
            turn, point = self.rng.uniform(0, 2 * np.pi), self.rng.normal(0, self.radius * 0.4, 2)
            for _ in range(14):
                turn += self.rng.normal(0, 0.35)
                point = point + 0.05 * np.array([np.cos(turn), np.sin(turn)])
                where = np.maximum(where, np.exp(-((self.x - point[0]) ** 2 + (self.y - point[1]) ** 2) / np.float32(2 * 0.016**2)))
        self.paint(RED, where.astype(np.float32) * self.inside, 0.75)


def skin(rng: np.random.Generator) -> Floats:
    """(SCENE, SCENE, 3): skin of a random tone with furrows."""
    tone = np.float32(rng.beta(1.6, 4.0))  # 0 pale, 1 dark
    colour = rgb((0.90, 0.72, 0.63)) * (1 - tone) + rgb((0.48, 0.31, 0.22)) * tone
    grain = 0.02 * smooth(rng, SCENE, 40) + 0.03 * smooth(rng, SCENE, 6)
    flush = np.float32(0.03) * smooth(rng, SCENE, 4)[..., None] * rgb((0.3, -1.0, -0.8))
    return (colour * (1 + grain[..., None]) + flush).astype(np.float32)


def melanoma(rng: np.random.Generator) -> Canvas:
    early = rng.random() < 0.33
    c = Canvas(rng, radius=rng.uniform(0.34, 0.66), rough=rng.uniform(0.04, 0.11) if early else rng.uniform(0.06, 0.16), long=rng.uniform(0, 0.25),
               edge=rng.uniform(0.05, 0.10), abrupt=0.7)  # fmt: skip
    c.fill((BROWN, BROWN, DARK, TAN)[int(rng.integers(4))])
    others = [DARK, TAN, BLACK, BLUE, WHITE, PINK]
    for n in rng.choice(6, size=int(rng.integers(1, 3) if early else rng.integers(2, 4)), replace=False):
        c.patch(others[n], size=rng.uniform(0.25, 0.6), away=rng.uniform(0.3, 0.75), share=0.8)
    if rng.random() < 0.7:
        c.network(pitch=rng.uniform(0.12, 0.18), strength=0.45, irregular=0.9)
    if rng.random() < 0.8:
        c.spots(BLACK, int(rng.integers(4, 12)), (0.02, 0.045), 0.9)
    return c


def nevus(rng: np.random.Generator) -> Canvas:
    atypical = rng.random() < 0.35
    c = Canvas(rng, radius=rng.uniform(0.24, 0.56), rough=rng.uniform(0.06, 0.15) if atypical else rng.uniform(0.02, 0.08),
               long=rng.uniform(0, 0.22), edge=rng.uniform(0.05, 0.13), abrupt=0.5 if atypical else 0.0)  # fmt: skip
    c.fill((BROWN, TAN, DARK, BROWN, PINK, TAN, DARK, BLUE)[int(rng.integers(8))], 0.85)
    if rng.random() < 0.6:  # darker or lighter towards the middle
        c.paint((DARK, TAN)[int(rng.integers(2))], np.clip(c.depth / np.float32(c.radius), 0, 1) * c.inside, 0.6)
    if atypical:
        for n in rng.choice(3, size=int(rng.integers(1, 3)), replace=False):
            c.patch((DARK, TAN, PINK)[n], size=rng.uniform(0.3, 0.6), away=rng.uniform(0.2, 0.6), share=0.6)
    if rng.random() < 0.6:
        c.network(pitch=rng.uniform(0.10, 0.16), strength=0.25, irregular=0.4 if atypical else 0.1)
    if rng.random() < 0.3:
        c.spots(BLACK, int(rng.integers(4, 14)), (0.02, 0.045), 0.8)
    return c


def basal_cell(rng: np.random.Generator) -> Canvas:
    c = Canvas(rng, radius=rng.uniform(0.25, 0.52), rough=rng.uniform(0.03, 0.12), long=rng.uniform(0, 0.25), edge=rng.uniform(0.05, 0.14))
    c.fill((PINK, PINK, WHITE, BROWN)[int(rng.integers(4))], 0.65)
    c.vessels(int(rng.integers(3, 7)))
    if rng.random() < 0.8:
        c.spots(BLUE, int(rng.integers(3, 8)), (0.04, 0.10), 0.75)
    if rng.random() < 0.4:
        c.patch(RED, size=rng.uniform(0.2, 0.4), away=rng.uniform(0, 0.4), share=0.7)
    return c


def actinic(rng: np.random.Generator) -> Canvas:
    c = Canvas(rng, radius=rng.uniform(0.30, 0.60), rough=rng.uniform(0.04, 0.14), long=rng.uniform(0, 0.25), edge=rng.uniform(0.10, 0.24))
    c.fill(PINK, 0.75)
    scale = np.clip(smooth(rng, SCENE, 22) - np.float32(0.4), 0, 1)
    c.paint(WHITE if rng.random() < 0.6 else YELLOW, scale * c.inside, 0.75)
    if rng.random() < 0.5:
        c.spots(RED, int(rng.integers(6, 16)), (0.012, 0.025), 0.7)
    return c


def keratosis(rng: np.random.Generator) -> Canvas:
    c = Canvas(rng, radius=rng.uniform(0.28, 0.62), rough=rng.uniform(0.05, 0.20), long=rng.uniform(0, 0.25), edge=rng.uniform(0.03, 0.09))
    c.fill((TAN, BROWN, DARK, YELLOW, PINK)[int(rng.integers(5))], 0.85)
    ridges = np.clip(smooth(rng, SCENE, 18), -1, 1)
    c.image *= 1 + (np.float32(0.14) * ridges * c.inside)[..., None]
    if rng.random() < 0.75:
        c.spots(WHITE, int(rng.integers(3, 12)), (0.018, 0.035), 0.7)
    if rng.random() < 0.6:
        c.spots(BLACK, int(rng.integers(2, 8)), (0.018, 0.04), 0.6)
    if rng.random() < 0.3:
        c.patch((DARK, TAN, BLUE)[int(rng.integers(3))], size=rng.uniform(0.3, 0.6), away=rng.uniform(0.2, 0.6), share=0.7)
    return c


def fibroma(rng: np.random.Generator) -> Canvas:
    c = Canvas(rng, radius=rng.uniform(0.24, 0.42), rough=rng.uniform(0.03, 0.11), long=rng.uniform(0, 0.2), edge=rng.uniform(0.10, 0.2))
    c.fill(TAN if rng.random() < 0.5 else PINK, 0.75)
    c.network(pitch=rng.uniform(0.10, 0.15), strength=0.22, irregular=0.2)
    c.paint(WHITE, np.clip((c.depth - np.float32(0.45 * c.radius)) / np.float32(0.1), 0, 1), 0.7)
    return c


def vascular(rng: np.random.Generator) -> Canvas:
    c = Canvas(rng, radius=rng.uniform(0.22, 0.45), rough=rng.uniform(0.03, 0.12), long=rng.uniform(0, 0.2), edge=rng.uniform(0.04, 0.12))
    c.fill(RED if rng.random() < 0.65 else PURPLE, 0.7)
    c.spots(PURPLE if rng.random() < 0.6 else RED, int(rng.integers(4, 12)), (0.05, 0.12), 0.7)
    return c


DRAW: dict[str, Callable[[np.random.Generator], Canvas]] = {
    "melanoma": melanoma,
    "basal cell carcinoma": basal_cell,
    "actinic keratosis": actinic,
    "nevus": nevus,
    "benign keratosis": keratosis,
    "dermatofibroma": fibroma,
    "vascular lesion": vascular,
}
