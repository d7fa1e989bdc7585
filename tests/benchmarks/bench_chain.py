"""The lung chain on one whole study: 300 slices of 512 x 512, read from DICOM, searched, outlined; seconds and peak memory of its process.

The study is a simulated chest (`tests/core/whole_chest.py`: the phantom's parenchyma, vessels and scanner in a body with two lungs and a
trachea), 0.7 mm pixels, slices of 1 mm. Diagnosis is a small ONNX graph of the tests: the registered model's share is its own benchmark.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SLICES, SIZE, PIXEL_MM, SPACING_MM = 300, 512, 0.7, 1.0
VESSELS = 600
BOUND_S, BOUND_MB = 60.0, 2000.0
CHILD = """
import json, resource, sys, time
from pathlib import Path
began = time.monotonic()
from components.core.pseudonym import Pseudonymiser
from pipelines.find import detector, find
from serving.nodules import opened
study, package, out = map(Path, sys.argv[1:])
model, chooser, key = opened(package, allow_synthetic=True), detector(None, allow_synthetic=True), Pseudonymiser(b"chain-bench-chain-bench")
result = find(study, model=model, chooser=chooser, pseudonymiser=key, out=out)
print(json.dumps({
    "seconds": time.monotonic() - began, "steps": result["seconds"], "findings": [f["position_mm"] for f in result["findings"]],
    "litres": result["study"]["lung_litres"], "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""


def run() -> list[dict[str, Any]]:
    """Seconds and megabytes of `find` in a child of its own, and how many of the drawn nodules it found."""
    import numpy as np

    from tests.core.whole_chest import chest, write
    from tests.serving.small_package import build, lung_nodule, reference

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = chest(size=SIZE, slices=SLICES, pixel_mm=PIXEL_MM, spacing_mm=SPACING_MM, seed=3, vessels=VESSELS)
        nodules = [((x - SIZE * PIXEL_MM / 2, y - SIZE * PIXEL_MM / 2, z - 200.0), r) for (z, y, x), r in made.nodules]
        write(folder / "study", made)
        litres = float(made.lungs.sum()) * PIXEL_MM**2 * SPACING_MM / 1e6
        del made
        spec = lung_nodule(normalise={"method": "range", "missing_profile": "pooled"})
        build(folder / "package", spec, reference({"a" * 16: ("A", "B")}), synthetic=True)
        command = [sys.executable, "-c", CHILD, str(folder / "study"), str(folder / "package"), str(folder / "out")]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ})
        found = json.loads(done.stdout.strip().splitlines()[-1])
    marks = np.array(found["findings"]).reshape(-1, 3)
    hit = sum(bool((np.linalg.norm(marks - np.array(c), axis=1) <= r).any()) for c, r in nodules)
    what = f"{SLICES} slices of {SIZE} x {SIZE}"
    return [
        _row(f"lung chain, {what}, whole command", found["seconds"], "s", f"<= {BOUND_S:.0f}", found["seconds"] <= BOUND_S),
        _row(f"lung chain, {what}, peak memory", found["peak_mb"], "MB", f"<= {BOUND_MB:.0f}", found["peak_mb"] <= BOUND_MB),
        *(_row(f"lung chain, {what}, {step}", seconds, "s", None, None) for step, seconds in found["steps"].items()),
        _row(f"lung chain, {what}, drawn nodules found", hit, f"of {len(nodules)}", None, None),
        _row(f"lung chain, {what}, other findings", len(marks) - hit, "", None, None),
        _row(f"lung chain, {what}, lung found against drawn", found["litres"] / litres, "x", None, None),
    ]


def _row(name: str, value: float, unit: str, bound: str | None, holds: bool | None) -> dict[str, Any]:
    return {"name": name, "value": float(value), "unit": unit, "bound": bound, "holds": holds}


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
