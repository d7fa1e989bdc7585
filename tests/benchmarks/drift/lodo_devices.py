"""Four devices for each phantom that no training and no tuning saw: drawn once, from ranges that hold no value of any other device of the phantom.

Tuning had the phantom's own devices (three or four known ones, the hard unseen one) and those of `lodo.TUNING`. The ranges below lie between their
values or beside them; where a parameter has two ranges, one is drawn. With the known ones and the tuning ones there are eight devices or more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from components.core.phantoms import (
    brain_mr,
    brain_mr_scanners,
    chest_ct,
    fundus,
    fundus_camera,
    inertial,
    inertial_units,
    lymph_slides,
    lymph_slides_scanners,
    scanners,
    skin_lesion,
    skin_lesion_camera,
)

DEVICES, SEED = 4, 20261124
Range = tuple[float, float]


def drawn(rng: np.random.Generator, *ranges: Range) -> float:
    low, high = ranges[int(rng.integers(len(ranges)))]
    return round(float(rng.uniform(low, high)), 4)


def ct(rng: np.random.Generator, n: int) -> scanners.Scanner:
    dense = bool(rng.integers(2))
    return replace(
        scanners.scanner("delta"),
        key=f"eval-{n}",
        manufacturer="SYNTHETIC Epsilon",
        model=f"Epsilon {n}",
        serial=f"SYN-E-{n}",
        station=f"SYNCT{n + 5}",
        kernel="SYN-SHARP",
        gain=drawn(rng, (1.06, 1.15) if dense else (0.80, 0.93)),
        offset_hu=round(drawn(rng, (30, 90) if dense else (-160, -50))),
        noise_hu=drawn(rng, (60, 140)),
        cut_mm=drawn(rng, (0.66, 0.85)),
        steep=drawn(rng, (2.8, 3.6)),
        boost=drawn(rng, (0.05, 0.2)),
        calcium=drawn(rng, (1.25, 1.45)),
        transfer_syntax=scanners.EXPLICIT,
    )


def fundus_photograph(rng: np.random.Generator, n: int) -> fundus_camera.Camera:
    blue = bool(rng.integers(2))
    gain = (
        drawn(rng, (0.80, 0.86) if blue else (1.19, 1.24)),
        drawn(rng, (0.93, 0.97) if blue else (0.82, 0.85)),
        drawn(rng, (1.13, 1.28) if blue else (0.52, 0.60)),
    )
    return fundus_camera.Camera(
        f"SIM-EVAL-{n}",
        108,
        drawn(rng, (0.86, 0.91)),
        0.95,
        gain,
        gamma=drawn(rng, (0.84, 0.90), (1.13, 1.19)),
        vignette=drawn(rng, (0.33, 0.41)),
        tilt=drawn(rng, (-0.29, -0.22), (0.22, 0.29)),
        haze=drawn(rng, (0.055, 0.075)),
        blur=drawn(rng, (0.015, 0.018)),
        noise=drawn(rng, (0.020, 0.028)),
        quality=70,
    )


def slide_scanner(rng: np.random.Generator, n: int) -> lymph_slides_scanners.Scanner:
    return lymph_slides_scanners.Scanner(
        f"eval-{n}",
        "SYNTHETIC Eval",
        f"SYNTHETIC Eval {n}",
        f"SYN-EV-{n:04d}",
        False,
        drawn(rng, (0.72, 0.80)),
        (drawn(rng, (0.45, 0.53)), drawn(rng, (0.77, 0.81)), drawn(rng, (0.37, 0.50))),
        (drawn(rng, (0.14, 0.27)), drawn(rng, (0.82, 0.89)), drawn(rng, (0.42, 0.57))),
        (drawn(rng, (0.91, 0.945)), drawn(rng, (0.91, 0.945)), drawn(rng, (0.86, 0.90))),
        blur_um=drawn(rng, (1.0, 1.4)),
        gamma=drawn(rng, (0.75, 0.88), (1.15, 1.3)),
        noise=drawn(rng, (0.013, 0.018)),
        quality=68,
    )


def mr(rng: np.random.Generator, n: int) -> brain_mr_scanners.MrScanner:
    one, other = brain_mr_scanners.mr_scanner("mr-alpha"), brain_mr_scanners.mr_scanner("mr-delta")
    share = drawn(rng, (0.4, 0.8))
    tissue = [round((1 - share) * a + share * b, 4) for a, b in zip(one.tissue, other.tissue, strict=True)]
    return replace(
        other,
        key=f"mr-eval-{n}",
        manufacturer="SYNTHETIC Eval",
        model=f"Eval {n}",
        serial=f"SYN-EV-{n}",
        software="EV1",
        field_t=0.7,
        echo_s=0.006,
        repetition_s=1.2,
        tissue=(tissue[0], tissue[1], tissue[2], tissue[3], tissue[4], tissue[5]),
        gain=drawn(rng, (180, 290), (1200, 1900)),
        noise=drawn(rng, (0.07, 0.11)),
        bias=drawn(rng, (0.26, 0.34)),
        voxel_mm=(3.5, 3.5, drawn(rng, (4.4, 5.5))),
        axes="RAS",
        unseen=False,
    )


def skin_photograph(rng: np.random.Generator, n: int) -> skin_lesion_camera.Camera:
    return skin_lesion_camera.Camera(
        f"SIM-EVAL-{n}",
        104,
        drawn(rng, (0.91, 0.93)),
        kelvin=drawn(rng, (0.66, 0.80), (1.18, 1.36)),
        gamma=drawn(rng, (0.80, 0.88), (1.13, 1.22)),
        vignette=drawn(rng, (0.31, 0.40)),
        slope=drawn(rng, (0.11, 0.16)),
        glare=drawn(rng, (0.75, 0.88)),
        tube=bool(rng.integers(2)),
        hair=2.3,
        blur=drawn(rng, (0.0205, 0.0235)),
        noise=drawn(rng, (0.022, 0.032)),
        quality=68,
    )


def sensor(rng: np.random.Generator, n: int) -> inertial_units.Unit:
    return inertial_units.Unit(
        f"syn-eval-{n}",
        rate_hz=(45.0, 55.0, 70.0, 90.0)[n % 4],
        gain=drawn(rng, (0.55, 0.66), (0.74, 0.88), (1.12, 1.35)),
        offset_mg=drawn(rng, (55, 75)),
        noise_mg=drawn(rng, (25, 55)),
        clip_g=drawn(rng, (2.2, 2.8), (3.2, 3.8)),
        step_mg=drawn(rng, (22, 30)),
        tilt_deg=drawn(rng, (16, 19)),
        yaw_deg=drawn(rng, (20, 40), (55, 80)),
    )


MODALITIES: dict[str, tuple[str, Any]] = {
    "CT": ("lung-nodule", ct),
    "fundus": ("retinopathy-screening", fundus_photograph),
    "histology": ("breast-metastasis", slide_scanner),
    "MRI": ("alzheimer-smri", mr),
    "skin": ("skin-lesion", skin_photograph),
    "sensor": ("parkinson-fog", sensor),
}


def devices(modality: str) -> list[Any]:
    """The four, the same on every call."""
    rng = np.random.default_rng([SEED, list(MODALITIES).index(modality)])
    return [MODALITIES[modality][1](rng, n) for n in range(DEVICES)]


@contextmanager
def replaced(modality: str) -> Iterator[list[Any]]:
    """Inside, the phantom's known devices are the four (for collections drawn in this process, `workers=1`)."""
    made = devices(modality)
    keys, by_key = tuple(d.key for d in made), {d.key: d for d in made}
    at: dict[str, tuple[Any, dict[str, Any]]] = {
        "CT": (chest_ct, {"KNOWN": keys, "SCANNERS": tuple(made), "scanner": by_key.__getitem__}),
        "fundus": (fundus, {"KNOWN": tuple(made)}),
        "histology": (lymph_slides, {"KNOWN": keys, "SCANNERS": tuple(made), "scanner": by_key.__getitem__}),
        "MRI": (brain_mr, {"KNOWN": keys, "mr_scanner": lambda key: by_key.get(key) or brain_mr_scanners.mr_scanner(key)}),
        "skin": (skin_lesion, {"KNOWN": tuple(made)}),
        "sensor": (inertial, {"KNOWN": keys, "UNITS": tuple(made)}),
    }
    module, names = at[modality]
    before = {name: vars(module)[name] for name in names}
    vars(module).update(names)
    try:
        yield made
    finally:
        vars(module).update(before)
