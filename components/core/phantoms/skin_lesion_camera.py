"""Simulated dermatoscopes and cameras: what each makes of the same lesion. No maker or model here exists.

They differ as real ones do: colour temperature, evenness of the light, glare that polarised light has not, magnification, sharpness, hairs and
bubbles in the picture. The unseen one is a telephone with a lens: bluish, uneven, soft, noisy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms.photographs import axes, blurred, encoded, resized, rgb, smooth

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Camera:
    """One device.

    Args:
        size: Pixels of a photograph's side.
        view: Share of the scene's side that is photographed.
        kelvin: Colour of the light: 1 is neutral, above it bluish, below it warm.
        gamma: Of the stored values.
        vignette: Share of light lost in the corners; `slope` how much one side is brighter than the other.
        glare: Strength of reflections; none with polarised light.
        tube: Whether the black rim of the instrument shows.
        hair: Mean number of hairs.
        blur: Sigma of the optics, as a share of the half side.
        noise: Standard deviation, of 1.
    """

    key: str
    size: int
    view: float
    kelvin: float
    gamma: float
    vignette: float
    slope: float
    glare: float
    tube: bool
    hair: float
    blur: float
    noise: float
    kind: str = "JPEG"
    quality: int = 90

    def photograph(self, scene: Floats, rng: np.random.Generator) -> bytes:
        """A file of the scene; the hand differs from one photograph to the next."""
        side = scene.shape[0]
        keep = round(side * self.view * float(rng.uniform(0.97, 1.0)))
        spare = side - keep
        top, left = (int(np.clip(round(spare / 2 + rng.normal(0, 2)), 0, spare)) for _ in range(2))
        image = scene[top : top + keep, left : left + keep]
        for _ in range(int(rng.integers(0, 4))):
            image = np.rot90(image)
        view = self._hairs(resized(np.ascontiguousarray(image), self.size), rng)
        x, y = axes(self.size)
        if self.glare:
            shine = np.clip(smooth(rng, self.size, 9) - np.float32(1.4), 0, 1) * np.float32(self.glare)
            view = view + (1 - view) * np.minimum(shine, 0.9)[..., None]
        view = blurred(view, self.blur * self.size / 2 * float(rng.uniform(0.85, 1.25)))
        turn = rng.uniform(0, 2 * np.pi)
        light = 1 - np.float32(self.vignette) * (x**2 + y**2) / 2 + np.float32(self.slope) * (x * np.cos(turn) + y * np.sin(turn)).astype(np.float32)
        balance = rgb((self.kelvin**-0.5, 1.0, self.kelvin**0.7)) * np.float32(1 + 0.02 * rng.standard_normal(3))
        view = view * (light * np.float32(rng.uniform(0.9, 1.08)))[..., None] * balance
        view += rng.standard_normal(view.shape, dtype=np.float32) * np.float32(self.noise)
        view = np.clip(view, 0, 1) ** np.float32(self.gamma)
        if self.tube:
            view *= np.clip((np.float32(1.12) - np.hypot(x, y)) * self.size / 6, 0.03, 1)[..., None]
        return encoded(view, kind=self.kind, quality=self.quality)

    def _hairs(self, view: Floats, rng: np.random.Generator) -> Floats:
        """Dark bent lines from edge to edge."""
        from PIL import Image, ImageDraw

        count = int(rng.poisson(self.hair))
        if not count:
            return view
        ink = Image.new("L", (2 * self.size, 2 * self.size))
        draw = ImageDraw.Draw(ink)
        for _ in range(count):
            ends = rng.uniform(0, 2 * self.size, (3, 2))
            t = np.linspace(0, 1, 12)[:, None]
            path = ends[0] * (1 - t) ** 2 + 2 * ends[1] * t * (1 - t) + ends[2] * t**2
            draw.line([(float(a), float(b)) for a, b in path], fill=200, width=2)
        return view * (1 - np.asarray(ink.reduce(2), dtype=np.float32) / 255)[..., None] ** np.float32(0.8)


KNOWN = (
    Camera("SIM-DERM-POLAR", 96, 0.96, 1.00, 1.00, 0.15, 0.02, 0.0, False, 2.0, 0.012, 0.010, quality=92),
    Camera("SIM-DERM-CONTACT", 112, 1.00, 0.86, 0.92, 0.28, 0.03, 0.7, True, 1.2, 0.014, 0.012, quality=88),
    Camera("SIM-DERM-VIDEO", 80, 0.90, 1.12, 1.10, 0.22, 0.06, 0.4, False, 1.6, 0.020, 0.020, quality=82),
    Camera("SIM-CLINIC", 128, 1.00, 0.93, 1.06, 0.10, 0.10, 0.5, False, 2.5, 0.013, 0.012, kind="PNG"),
)
UNSEEN = Camera("SIM-PHONE-LENS", 100, 0.92, 1.40, 1.25, 0.45, 0.18, 1.0, True, 2.5, 0.024, 0.035, quality=60)
