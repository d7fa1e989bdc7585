"""Simulated fundus cameras: what each makes of the same eye. No maker or model here exists.

They differ as real ones do: angle of view, mask, illumination, haze, colour balance, sharpness, noise, dust, file format. The unseen one is
like a lens held before a telephone: narrow, uneven, bluish, soft and noisy.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from components.core.phantoms.fundus_eye import REACH
from components.core.phantoms.photographs import axes, blurred, encoded, resized, rgb

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Camera:
    """One camera.

    Args:
        size: Pixels of a photograph's side.
        reach: Radius of the view, in units of a 45-degree one.
        cut: Share of the radius at which the mask is cut off above and below; 1 is a full circle.
        gain: Of red, green, blue.
        gamma: Of the stored values.
        vignette: Share of light lost at the rim; `tilt` moves its middle to the side.
        haze: Light added by scatter, largest at the rim.
        blur: Sigma of the optics, as a share of the radius.
        noise: Standard deviation, of 1.
    """

    key: str
    size: int
    reach: float
    cut: float
    gain: tuple[float, float, float]
    gamma: float
    vignette: float
    tilt: float
    haze: float
    blur: float
    noise: float
    kind: str = "JPEG"
    quality: int = 90

    def framed(self, scene: Floats, rng: np.random.Generator) -> Floats:
        """What of the scene is in the picture; the first thing that a photograph draws at random."""
        side = scene.shape[0]
        keep = round(side * min(1.0, self.reach * float(rng.uniform(0.98, 1.02)) / REACH))
        spare = side - keep
        top, left = (int(np.clip(round(spare / 2 + rng.normal(0, 3)), 0, spare)) for _ in range(2))
        return scene[top : top + keep, left : left + keep]

    def photograph(self, scene: Floats, rng: np.random.Generator) -> bytes:
        """A file of the scene; hand and pupil differ from one photograph to the next."""
        view = resized(np.ascontiguousarray(self.framed(scene, rng)), self.size)
        x, y = axes(self.size)
        view = blurred(view, self.blur * self.size / 2 * float(rng.uniform(0.85, 1.25)))
        off = rng.normal((self.tilt, 0), 0.12)
        rim = (x - off[0]) ** 2 + (y - off[1]) ** 2
        light = np.float32(rng.uniform(0.88, 1.1)) * (1 - np.float32(self.vignette) * np.minimum(rim, 1.6))
        view = view * light[..., None] * rgb(self.gain) + (np.float32(self.haze) * rim)[..., None] * rgb((0.6, 0.8, 1.0))
        view += rng.standard_normal(view.shape, dtype=np.float32) * np.float32(self.noise)
        view = np.clip(view, 0, 1) ** np.float32(self.gamma)
        mask = np.clip((1 - np.hypot(x, y)) * self.size / 4, 0, 1) * (np.abs(y) < self.cut)
        return encoded(view * mask[..., None], kind=self.kind, quality=self.quality)


KNOWN = (
    Camera("SIM-FUNDUS-A", 96, 1.00, 1.00, (1.02, 1.00, 0.90), 1.00, 0.18, 0.00, 0.02, 0.010, 0.010, quality=92),
    Camera("SIM-FUNDUS-B", 112, 1.05, 0.82, (1.18, 0.88, 0.62), 0.92, 0.30, 0.20, 0.01, 0.013, 0.014, quality=85),
    Camera("SIM-FUNDUS-C", 128, 0.92, 1.00, (0.88, 1.04, 1.10), 1.08, 0.22, -0.15, 0.05, 0.011, 0.018, quality=88),
    Camera("SIM-FUNDUS-D", 96, 0.98, 0.90, (1.08, 0.92, 0.75), 1.12, 0.12, 0.00, 0.03, 0.014, 0.008, kind="PNG"),
)
EXTERNAL = {
    "messidor-2": Camera("SIM-FUNDUS-M", 120, 1.00, 1.00, (1.12, 0.86, 0.66), 0.96, 0.26, 0.10, 0.02, 0.012, 0.012, kind="PNG"),
    "e-ophtha": Camera("SIM-FUNDUS-E", 104, 0.95, 0.86, (0.94, 1.00, 0.86), 1.05, 0.32, -0.20, 0.03, 0.013, 0.016, quality=84),
}
UNSEEN = Camera("SIM-FUNDUS-PHONE", 100, 0.80, 1.00, (0.78, 0.98, 1.30), 1.20, 0.45, 0.35, 0.10, 0.020, 0.035, quality=60)
