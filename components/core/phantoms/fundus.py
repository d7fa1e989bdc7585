"""`fundus`: synthetic photographs of both eyes of every person, with a grade of diabetic retinopathy for each eye.

    <folder>/phantom.json                              what was made: version, seed, counts; says that it is synthetic
    <folder>/labels.csv                                image, label (the grade's name), patient, eye, device, synthetic
    <folder>/images/00012_left.jpeg, 00012_right.jpeg
    <folder>/<set>/labels.csv, <set>/images/...        external sets, only where the caller names them, each from a camera of its own

Each person has a random generator of their own. What eyes, signs and cameras look like is frozen (`PHANTOM_VERSION`,
docs/decisions/0150-photograph-phantoms.md): models are tuned on it, never it on models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.core.phantoms.fundus_camera import EXTERNAL, KNOWN, UNSEEN, Camera
from components.core.phantoms.fundus_eye import GRADES, eye
from components.core.phantoms.photographs import Photo, photographs

PHANTOM_VERSION = 1
SHARES = (0.46, 0.18, 0.17, 0.10, 0.09)  # of the grades; real screening has far more healthy eyes
OTHER_EYE = 0.3  # share of people whose eyes differ by one grade


def generate(folder: Path, *, patients: int, seed: int, unseen: bool = False, external: Sequence[str] = ()) -> dict[str, Any]:
    """Write a collection; the folder appears whole or not at all.

    Args:
        folder: Absent, empty, or an earlier phantom.
        patients: Two photographs each; every external set has a third as many people.
        seed: Same seed, same bytes.
        unseen: Only the camera that collections never contain, with people of their own and without external sets.
        external: Names among `fundus_camera.EXTERNAL`.

    Returns:
        The summary, as in phantom.json.

    Raises:
        DataError: The folder holds something else.
    """
    request = {
        "phantom": "fundus",
        "version": PHANTOM_VERSION,
        "seed": seed,
        "patients": patients,
        "unseen": unseen,
        "external": list(() if unseen else external),
    }
    each = max(1, patients // 3)

    def photos(number: int) -> Iterator[Photo]:
        if number < patients:
            cameras = (UNSEEN,) if unseen else KNOWN
            yield from _person(seed, int(unseen), number, cameras[number % len(cameras)], "")
            return
        which, inside = divmod(number - patients, each)
        name = request["external"][which]
        yield from _person(seed, 2 + sorted(EXTERNAL).index(name), inside, EXTERNAL[name], f"{name}/")

    return photographs(folder, request, photos, people=patients + each * len(request["external"]))


def _person(seed: int, population: int, number: int, camera: Camera, below: str) -> Iterator[Photo]:
    """Both eyes of one person; the second one's grade is the first one's, or one beside it."""
    rng = np.random.default_rng([seed, population, number])
    grade = int(np.searchsorted(np.cumsum(SHARES), rng.random(), side="right"))
    other = int(np.clip(grade + rng.choice((-1, 1)), 0, 4)) if rng.random() < OTHER_EYE else grade
    for side, severity in (("left", grade), ("right", other)):
        scene, _ = eye(rng, severity, left=side == "left")
        ending = "jpeg" if camera.kind == "JPEG" else "png"
        row = {"label": GRADES[severity], "patient": f"SYN-{population}-{number + 1:05d}", "eye": side, "device": camera.key}
        yield Photo(f"{below}images/{number + 1:05d}_{side}.{ending}", row, camera.photograph(scene, rng))
