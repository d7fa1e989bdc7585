"""`skin-lesion`: synthetic dermatoscopic and clinical photographs of one lesion per person, some of them photographed twice.

    <folder>/phantom.json                  what was made: version, seed, counts; says that it is synthetic
    <folder>/labels.csv                    image, label (the diagnosis), patient, lesion_id, device, synthetic
    <folder>/images/SYN_0000012_1.jpg ...

Each lesion has a random generator of its own. What lesions and devices look like is frozen (`PHANTOM_VERSION`,
docs/decisions/0150-photograph-phantoms.md): models are tuned on it, never it on models.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.core.phantoms.photographs import Photo, photographs, pick
from components.core.phantoms.skin_lesion_camera import KNOWN, UNSEEN
from components.core.phantoms.skin_lesion_drawing import DRAW

PHANTOM_VERSION = 1
MALIGNANT = ("melanoma", "basal cell carcinoma", "actinic keratosis")
DIAGNOSES = tuple(DRAW)
SHARES = (0.20, 0.10, 0.07, 0.37, 0.14, 0.06, 0.06)  # of the diagnoses; HAM10000 has 67 % moles, 1 % of the rarest
TWICE = 0.3  # share of lesions with a second photograph, by another device


def generate(folder: Path, *, patients: int, seed: int, unseen: bool = False) -> dict[str, Any]:
    """Write a collection; the folder appears whole or not at all.

    Args:
        folder: Absent, empty, or an earlier phantom.
        patients: One lesion each, with one or two photographs.
        seed: Same seed, same bytes.
        unseen: Only the device that collections never contain, with people of their own.

    Returns:
        The summary, as in phantom.json.

    Raises:
        DataError: The folder holds something else.
    """
    request = {"phantom": "skin-lesion", "version": PHANTOM_VERSION, "seed": seed, "patients": patients, "unseen": unseen}

    def photos(number: int) -> Iterator[Photo]:
        rng = np.random.default_rng([seed, int(unseen), number])
        label = pick(rng, DIAGNOSES, SHARES)
        scene = np.clip(DRAW[label](rng).image, 0, 1)
        cameras = (UNSEEN,) if unseen else KNOWN
        for shot in range(2 if rng.random() < TWICE else 1):
            camera = cameras[(number + shot) % len(cameras)]
            person = f"SYN-{'U' if unseen else ''}{number + 1:07d}"
            row = {"label": label, "patient": person, "lesion_id": f"{person}-1", "device": camera.key}
            ending = "jpg" if camera.kind == "JPEG" else "png"
            yield Photo(f"images/{person}_{shot + 1}.{ending}".replace("SYN-", "SYN_"), row, camera.photograph(scene, rng))

    return photographs(folder, request, photos, people=patients)
