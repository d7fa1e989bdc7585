"""A million events of eight devices: seconds and memory, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

from components.monitor.detect import Detector
from components.monitor.sketch import hashes
from tests.benchmarks.drift.world import FEATURES, NAMES, Site

EVENTS, CHUNK = 1_000_000, 50_000


def work() -> dict[str, float]:
    """Events come in pieces, as from the segments of a log; making them up is not counted."""
    import resource

    site = Site(0)
    detector = Detector(site.known)
    window = {device: detector.sketch(device) for device in site.known.own}
    rng, seconds = np.random.default_rng(0), 0.0
    for _ in range(EVENTS // CHUNK):
        x = rng.standard_normal((CHUNK, FEATURES), dtype=np.float32)
        device, patient = rng.integers(0, len(window), CHUNK), rng.integers(0, 300_000, CHUNK)
        started = time.perf_counter()
        hashed = hashes(patient.tolist())
        for k, (name, sketch) in enumerate(window.items()):
            rows = np.flatnonzero(device == k)
            sketch.add(site.known.baseline(name)[0].places, dict(zip(NAMES, x[rows].T, strict=True)), hashed[rows])
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    detector.judge(window)
    seconds += time.perf_counter() - started
    size = sum(s.counts.nbytes + s.tugs.nbytes for s in window.values())
    return {"seconds": seconds, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "sketch_mb": size / 1e6}


def run() -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.strip().splitlines()[-1])
    holds = found["seconds"] < 15 and found["mb"] < 500
    return [
        {
            "events": f"{EVENTS:,}",
            "features": FEATURES,
            "devices": 8,
            "seconds": f"{found['seconds']:.1f}",
            "peak memory (MB, with imports)": f"{found['mb']:.0f}",
            "sketches (MB)": f"{found['sketch_mb']:.2f}",
            "bound": "under 15 s and 500 MB",
            "holds": "yes" if holds else "NO",
        }
    ]


if __name__ == "__main__":
    print(json.dumps(work()))
