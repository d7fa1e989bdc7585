"""Whole slides: tiles a second against a bare loop over OpenSlide, and the memory that a slide of 40,000 x 40,000 pixels takes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from components.core.spec import DiseaseSpec
from tests.ingest.made import KEY, PSEUDONYMISER, ROOT

SIDE, TILE, TISSUE = 40_000, 256, 32  # pixels of the slide and of a tile; tiles with tissue along each side
SMALL = 8192
POLL_S = 0.02
PEAK_MB = 1500
SHARE = 0.5


def spec() -> DiseaseSpec:
    """breast-metastasis at the size of the publication: tiles of 256 pixels at 0.25 microns."""
    raw = json.loads(DiseaseSpec.from_toml(ROOT / "pipelines" / "diseases" / "breast-metastasis.toml").to_json())
    raw["input"] |= {"shape": [3, TILE, TILE], "microns_per_pixel": 0.25}
    raw["split"] |= {"train": 0.5, "val": 0.5, "test": 0.0}
    return DiseaseSpec.from_json(json.dumps(raw))


def run() -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = write(folder / "small" / "testing" / "test_001.tif", SMALL, noisy=True)
        rates = speed(small, folder)
        write(folder / "large" / "testing" / "test_001.tif", SIDE, noisy=False)
        peak = memory(folder / "large", folder / "out") / 1e6
    ratio = rates["reader"] / rates["bare"]
    return [
        {
            "name": "whole-slide reader against a bare OpenSlide loop, same tiles", "value": ratio, "unit": "x",
            "bound": f">= {SHARE}", "holds": ratio >= SHARE,
        },
        {"name": "whole-slide reader, tiles of 256 pixels, one process", "value": rates["reader"], "unit": "1/s", "bound": "", "holds": None},
        {"name": "bare OpenSlide loop", "value": rates["bare"], "unit": "1/s", "bound": "", "holds": None},
        {
            "name": f"ingest of one slide of {SIDE} x {SIDE} pixels, sum of all processes' peaks", "value": peak, "unit": "MB",
            "bound": f"< {PEAK_MB}", "holds": peak < PEAK_MB,
        },
    ]  # fmt: skip


def write(path: Path, side: int, *, noisy: bool) -> Path:
    """A pyramid of JPEG tiles, each encoded once and written often: glass, and a square of tissue in the middle."""
    import tifffile
    from PIL import Image

    path.parent.mkdir(parents=True)
    draw = np.random.default_rng(0)

    def encoded(colour: tuple[int, int, int]) -> bytes:
        pixels = np.full((TILE, TILE, 3), colour, np.uint8)
        if noisy:
            pixels = np.clip(pixels + draw.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG", quality=80, subsampling=0)
        return buffer.getvalue()

    glass, tissue = encoded((245, 245, 245)), encoded((190, 90, 160))
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for n in range(5):
            wide = side >> n
            across = -(-wide // TILE)
            half = max(1, (TISSUE >> n) // 2)

            def tiles(across: int = across, half: int = half) -> Iterator[bytes]:
                for row in range(across):
                    for column in range(across):
                        middle = abs(row + 0.5 - across / 2) <= half and abs(column + 0.5 - across / 2) <= half
                        yield tissue if middle else glass

            per_cm = 1e4 / (0.25 * 2**n)
            tiff.write(
                tiles(), shape=(wide, wide, 3), dtype=np.uint8, tile=(TILE, TILE), photometric="ycbcr", compression="jpeg", subsampling=(1, 1),
                metadata=None, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER", subfiletype=1 if n else 0,
            )  # fmt: skip
    return path


def speed(path: Path, folder: Path) -> dict[str, float]:
    """Tiles a second of the reader's second pass (tissue, labels, hashes, storing) and of a loop that only reads the same tiles."""
    import openslide

    from components.ingest.job import Context, Task
    from components.ingest.readers.whole_slide import read_tiles
    from components.ingest.slide_source import Found
    from components.ingest.source import open_source

    (folder / "work" / "arrays").mkdir(parents=True)
    context = Context(spec(), open_source(str(path)), PSEUDONYMISER, folder / "work")
    best = {"reader": 0.0, "bare": 0.0}
    for turn in range(3):
        started = time.perf_counter()
        outcome = read_tiles(context, Task(f"tiles-{turn}", (Found(0, "test", None, None, None), "test")))
        best["reader"] = max(best["reader"], len(outcome.samples) / (time.perf_counter() - started))
        assert outcome.samples, outcome.rejected
        corners = [(round(row["place"][0] / 0.25 - TILE / 2), round(row["place"][1] / 0.25 - TILE / 2)) for row in outcome.samples]
        started = time.perf_counter()
        with openslide.OpenSlide(path) as slide:
            for x, y in corners:
                np.asarray(slide.read_region((x, y), 0, (TILE, TILE)).convert("RGB"))
        best["bare"] = max(best["bare"], len(corners) / (time.perf_counter() - started))
    return best


def memory(source: Path, out: Path) -> int:
    """Sum of the most that each process of an ingest ever had resident, in bytes: no less than all had at any one time.

    Workers are children of a fork server, so `wait4` knows nothing of them; each process's own counter is read while it lives.
    """
    import psutil

    program = (
        "import sys; from pathlib import Path; from tests.benchmarks.bench_slides import spec; from components.ingest.step import ingest; "
        "out = Path(sys.argv[2]); info = ingest(spec(), sys.argv[1], dataset=out / 'dataset', features=out / 'features', workers=1); "
        "assert info['counts']['samples'] >= 1000, info['counts']"
    )
    out.mkdir()
    env = os.environ | {"DXFLOW_HOME": str(out / "home"), "DXFLOW_KEY": KEY, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program, str(source), str(out)], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                peaks[one.pid] = max(peaks.get(one.pid, 0), high_water(one.pid))
        time.sleep(POLL_S)
    assert process.returncode == 0
    return sum(peaks.values())


def high_water(pid: int) -> int:
    """The most that a process has ever had resident, in bytes, as the kernel counts it; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
