"""Odd and damaged files at both ends: what ingest makes a sample of, the server makes the same sample of; what one refuses, the other refuses.

`python -m tests.soak.formats [number] [seed]`; exits with 1 when the two ends differ, or anything but samples or a reason came back.

Pictures of every kind, mode, depth and orientation go through ingest (`image-csv`) and through the server's decoding layer, whole and damaged; so do
heads as NIfTI (`nifti-bids`) with forms, units, scalings and intents of all sorts.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from components.core.dataset import Dataset
from components.core.errors import DataError
from components.core.spec import DiseaseSpec
from components.ingest.step import ingest
from serving import bodies
from serving.bodies.body import Body
from tests.ingest.made import KEY, PSEUDONYMISER
from tests.serving.fuzzing import mutants
from tests.serving.small_bodies import BRAIN, FUNDUS, disease, nifti, pixels

BATCH = 500
KINDS = ("PNG", "JPEG", "TIFF", "BMP", "PPM", "WEBP", "MPO")
MODES = ("RGB", "RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16", "F", "LAB", "YCbCr")


def picture(draw: random.Random) -> bytes:
    """One picture of some kind, mode and orientation; where a kind has no such mode, in RGB."""
    height, width = draw.randint(1, 80), draw.randint(1, 80)
    image = Image.fromarray(pixels(height, width, seed=draw.randrange(1 << 30)))
    mode, kind, exif = draw.choice(MODES), draw.choice(KINDS), Image.Exif()
    exif[0x010F], exif[0x0112] = "ACME", draw.randrange(10)
    if mode in ("RGBA", "LA"):
        image = image.convert(mode)
        image.putalpha(Image.fromarray((np.arange(height * width) % draw.choice((1, 2, 256)) * 255 // 255).astype(np.uint8).reshape(height, width)))
    elif mode in ("I;16", "F"):
        scale = draw.choice((1, 257))
        image = Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16) * scale).astype("f4" if mode == "F" else "u2"))
    elif mode == "LAB":
        image = Image.new("LAB", (width, height))
    else:
        image = image.convert(mode)
    for one in (image, image.convert("RGB") if mode != "LAB" else Image.new("RGB", (width, height))):
        out = io.BytesIO()
        try:
            more: dict[str, Any] = {"exif": exif} if kind not in ("BMP", "PPM") and (kind, exif[0x0112] % 9) != ("TIFF", 0) else {}
            more |= {"progressive": True} if kind == "JPEG" and draw.random() < 0.3 else {}
            more |= {"save_all": True, "append_images": [one]} if kind == "MPO" or (kind in ("PNG", "TIFF", "WEBP") and draw.random() < 0.05) else {}
            one.save(out, kind, **more)
        except (OSError, ValueError, KeyError):
            continue
        return out.getvalue()
    raise AssertionError(kind)


def head(draw: random.Random) -> bytes:
    """A head of 4 mm whose header is odd in some way, or in none."""
    import nibabel

    image = nibabel.Nifti1Image.from_bytes(nifti())
    turn = np.diag([draw.choice((-1.0, 1.0)) for _ in range(3)] + [1.0])
    sform, qform = image.affine, image.affine @ (turn if draw.random() < 0.3 else np.eye(4))
    image.set_sform(sform, draw.choice((0, 1, 2, 4)))
    image.set_qform(qform, draw.choice((0, 1, 2)))
    image.header.set_xyzt_units(draw.choice(("mm", "mm", "unknown", "micron")))
    if draw.random() < 0.1:
        image.header.set_intent("label")
    raw = bytearray(image.to_bytes())
    if draw.random() < 0.3:
        raw[76:80] = np.float32(draw.choice((0, -1, 1, 5))).tobytes()
    if draw.random() < 0.3:
        raw[112:120] = np.array([draw.choice((0, 1, 0.5, np.nan)), draw.choice((0, -7, 1e9))], "<f4").tobytes()
    return bytes(raw)


def trained(spec: DiseaseSpec, files: dict[str, bytes], folder: Path) -> Counter[bytes]:
    """What ingest makes of the files."""
    for name, content in files.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    raw = spec.model_dump(mode="json") | {"external": []}
    raw["limits"] |= {"quarantine_share": 1}
    raw["split"] |= {"folds": 1}
    ingest(DiseaseSpec.model_validate(raw), str(folder / "in"), dataset=folder / "dataset", features=folder / "features", workers=1)
    found = Dataset(folder / "dataset")
    return Counter(np.ascontiguousarray(one).tobytes() for one in found.read(range(len(found))))


def served(spec: DiseaseSpec, content: bytes) -> tuple[bytes | None, str]:
    """The server's sample, or None and the reason."""
    try:
        (query,) = bodies.read(None, Body(content), spec, PSEUDONYMISER)
    except DataError as error:
        return None, error.what
    return np.ascontiguousarray(query.array).tobytes(), "read"


def batch(name: str, contents: list[bytes]) -> tuple[Counter[str], str]:
    """Reasons at the server, and how the two ends differ ("" where they do not)."""
    spec = disease(name)
    if name == FUNDUS:
        files = {f"{n}.bin": one for n, one in enumerate(contents)}
        lines = [f"{file},{n % 2},p{n}" for n, file in enumerate(files)]
        files["labels.csv"] = "\n".join(["image,label,patient", *lines]).encode()
    else:
        files = {f"sub-{n:05d}/anat/sub-{n:05d}_T1w.nii": one for n, one in enumerate(contents)}
        lines = [f"sub-{n:05d}\t{('control', 'ad')[n % 2]}" for n in range(len(contents))]
        files["participants.tsv"] = "\n".join(["participant_id\tdiagnosis", *lines]).encode()
    answers = [served(spec, one) for one in contents]
    at_the_server = Counter(sample for sample, _ in answers if sample is not None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"DXFLOW_KEY": KEY, "DXFLOW_HOME": str(Path(folder) / "home")}
        at_ingest = trained(spec, files, Path(folder))
    only = (sum((at_ingest - at_the_server).values()), sum((at_the_server - at_ingest).values()))
    return Counter(reason for _, reason in answers), "" if only == (0, 0) else f"{only[0]} samples at ingest only, {only[1]} at the server only"


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
    draw = random.Random(int(sys.argv[2]) if len(sys.argv) > 2 else 20_261_201)
    wrong: list[str] = []
    for name, make, share in ((FUNDUS, picture, 0.8), (BRAIN, head, 0.2)):
        reasons: Counter[str] = Counter()
        left = round(number * share)
        while left > 0:
            whole = [make(draw) for _ in range(min(BATCH, left) // 2)]
            damaged = list(mutants(whole, min(BATCH, left) - len(whole), draw.randrange(1 << 30)))
            found, differs = batch(name, [*whole, *damaged])
            reasons += found
            wrong += [f"{name}: {differs}"] if differs else []
            left -= BATCH
        print(name, json.dumps(dict(reasons.most_common())), flush=True)
    print(*wrong, f"{len(wrong)} batches in which the two ends differ, of {number} files", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
