"""What a walking person's ankle, thigh and trunk do, and what freezing makes of it.

Steps are a harmonic series that follows one phase. In a freeze the steps shrink and a trembling of 3-8 Hz, whose frequency wanders, takes their
place; some freezes have hardly any. What looks alike and is none: the harmonics of heel strikes, quick small steps of a turn, shuffling,
which is as small and quick but keeps its beat, and standing with a tremor at rest, which is as strong but keeps its frequency.

Source:
    Bands of steps and of trembling: Moore, MacDougall and Ondo 2008; festination before a freeze: Nieuwboer et al. 2001.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FINE_HZ = 200.0
WALK, TURN, STAND, SHUFFLE, FREEZE = range(5)
PLACES = ("ankle", "thigh", "trunk")
LENGTH_S = {WALK: (3.0, 9.0), TURN: (2.0, 5.0), STAND: (4.0, 12.0), SHUFFLE: (3.0, 9.0)}
BLEND_S = 0.25
HARMONICS = 8
# Strength of each harmonic of the stride, by place; the trunk moves once with every step, so its even harmonics lead.
SERIES = {
    "ankle": (1.0, 0.9, 0.65, 0.55, 0.42, 0.34, 0.25, 0.2),
    "thigh": (1.0, 0.6, 0.3, 0.3, 0.16, 0.14, 0.08, 0.08),
    "trunk": (0.25, 1.0, 0.12, 0.4, 0.08, 0.22, 0.05, 0.1),
}
STRENGTH_MG = {"ankle": 420.0, "thigh": 280.0, "trunk": 120.0}
AXES = {"ankle": (1.0, 0.6, 0.35), "thigh": (0.9, 0.6, 0.3), "trunk": (0.6, 1.0, 0.6)}  # forward, up, sideways
TREMBLING = {"ankle": (0.9, 0.7, 0.5), "thigh": (0.8, 0.6, 0.35), "trunk": (0.2, 0.25, 0.3)}
POSTURE_MG = {"ankle": (-290.0, 940.0, 150.0), "thigh": (80.0, 960.0, 120.0), "trunk": (120.0, 970.0, 60.0)}
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Person:
    """One subject's habits; frequencies in Hz, strengths as factors."""

    stride_hz: float
    vigour: float
    shake_hz: float
    shake: float
    residue: float
    akinetic: float
    freezes: float
    tremor_hz: float
    tremor: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Person:
        return cls(
            stride_hz=rng.uniform(0.72, 1.05),
            vigour=float(np.exp(rng.normal(0, 0.3))),
            shake_hz=rng.uniform(3.6, 6.8),
            shake=float(np.exp(rng.normal(0, 0.35))),
            residue=rng.uniform(0.05, 0.3),
            akinetic=rng.uniform(0.0, 0.3),
            freezes=rng.uniform(0.3, 0.6),
            tremor_hz=rng.uniform(3.6, 6.8),
            tremor=float(np.exp(rng.normal(0, 0.35))),
        )


def course(person: Person, seconds: float, rng: np.random.Generator) -> list[tuple[int, float, bool]]:
    """(state, seconds, akinetic) one after the other, `seconds` in all. Freezes come with turns and with the first step after standing."""
    out: list[tuple[int, float, bool]] = []
    left = seconds
    state = WALK
    while left > 0:
        length = float(np.clip(rng.lognormal(1.5, 0.5), 2.0, 14.0)) if state == FREEZE else rng.uniform(*LENGTH_S[state])
        length = min(length, left)
        out.append((state, length, state == FREEZE and rng.random() < person.akinetic))
        left -= length
        if state == WALK:
            state = int(rng.choice((TURN, STAND, SHUFFLE), p=(0.25, 0.4, 0.35)))
        elif state == FREEZE:
            state = WALK
        else:
            state = FREEZE if rng.random() < person.freezes else WALK
    return out


def motion(person: Person, events: list[tuple[int, float, bool]], rng: np.random.Generator) -> tuple[Floats, NDArray[np.int64]]:
    """Acceleration with gravity (n, 9) in mg at `FINE_HZ`, channels of ankle, thigh, trunk; and the state of each moment (n,)."""
    from scipy.ndimage import gaussian_filter1d

    lengths = [round(length * FINE_HZ) for _, length, _ in events]
    state = np.repeat([kind for kind, _, _ in events], lengths)
    still = np.repeat([akinetic for _, _, akinetic in events], lengths)
    n = len(state)

    def mood(spread: float) -> Floats:
        """A factor that each event draws anew."""
        return np.repeat(np.exp(rng.normal(0, spread, len(events))), lengths)

    def wander(sd: float, seconds: float) -> Floats:
        """Gaussian noise of a standard deviation and a correlation time."""
        coarse = rng.normal(size=n // 20 + 2)
        smooth = gaussian_filter1d(coarse, seconds * FINE_HZ / 20, mode="reflect")
        fine = np.interp(np.arange(n) / 20, np.arange(len(coarse)), smooth)
        return sd * fine / max(1e-9, float(fine.std()))

    def blend(values: Floats) -> Floats:
        return gaussian_filter1d(values, BLEND_S * FINE_HZ / 2, mode="nearest")

    # Festination: the last second and a half before a freeze, steps quicken and shrink.
    soon = np.zeros(n)
    reach = int(1.5 * FINE_HZ)
    for start in np.flatnonzero((state[1:] == FREEZE) & (state[:-1] != FREEZE)) + 1:
        soon[max(0, start - reach) : start] = np.linspace(0, 1, reach)[-min(reach, start) :]
    small = [state == STAND, state == FREEZE, state == TURN, state == SHUFFLE]
    quick = np.select(small[1:], [1.6, 1.2, 1.6], 1.0) * (1 + 0.4 * soon)
    steps = np.select(small, [0.02, person.residue, 0.6, 0.25], 1.0) * (1 - 0.4 * soon) * mood(0.3)
    steps = blend(np.where(still, 0.04, steps)) * (1 + wander(0.12, 1.0))
    phase = 2 * np.pi * np.cumsum(person.stride_hz * blend(quick) * (1 + wander(0.04, 1.5))) / FINE_HZ
    shake = blend(np.where(state == FREEZE, np.where(still, 0.12, 1.0), 0.0) * mood(0.5)) * np.exp(wander(0.4, 0.5))
    shake_phase = 2 * np.pi * np.cumsum(person.shake_hz + wander(0.65, 0.35)) / FINE_HZ
    present = np.repeat(rng.random(len(events)) < 0.7, lengths)  # a tremor comes and goes
    rest = blend(np.select([state == STAND, state == SHUFFLE, state == FREEZE], [1.0, 0.8, 0.1], 0.2) * present * mood(0.5)) * (1 + wander(0.2, 2.0))
    rest_phase = 2 * np.pi * (person.tremor_hz * np.arange(n) / FINE_HZ) + wander(0.6, 1.5)
    sway = blend(np.where((state == WALK) | (state == TURN), 0.5, 1.0) * mood(0.8))

    out = np.empty((n, 9))
    for p, place in enumerate(PLACES):
        for axis in range(3):
            angles = rng.uniform(0, 2 * np.pi, HARMONICS)
            weights = np.array(SERIES[place]) * np.exp(rng.normal(0, 0.25, HARMONICS))
            walking = sum(weights[h] * np.cos((h + 1) * phase + angles[h]) for h in range(HARMONICS))
            trembling = np.cos(shake_phase + rng.uniform(0, 2 * np.pi)) + 0.35 * np.cos(2 * shake_phase + rng.uniform(0, 2 * np.pi))
            value = STRENGTH_MG[place] * person.vigour * AXES[place][axis] * steps * walking
            value += 330.0 * person.shake * TREMBLING[place][axis] * shake * trembling
            still_shaking = np.cos(rest_phase + rng.uniform(0, 2 * np.pi)) + 0.35 * np.cos(2 * rest_phase + rng.uniform(0, 2 * np.pi))
            value += 330.0 * person.tremor * TREMBLING[place][axis] * rest * still_shaking
            value += wander(130.0, 0.12) * sway + wander(40.0, 2.0) + wander(12.0, 0.03)
            out[:, 3 * p + axis] = POSTURE_MG[place][axis] + value
    return out, state
