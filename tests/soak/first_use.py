"""A home's first use of the model registry, killed at random moments: the next use must find a registry that works.

python -m tests.soak.first_use [kills]
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CODE = "from components.core import registry; print('go', flush=True); registry.client().search_registered_models()"
SEED = 20261201


def use(home: Path, after_s: float | None = None) -> tuple[int, float]:
    """Exit status of one client, killed `after_s` seconds after it began; and how long it took."""
    env = {**os.environ, "DXFLOW_HOME": str(home)}
    env.pop("MLFLOW_TRACKING_URI", None)
    with subprocess.Popen([sys.executable, "-c", CODE], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        process.stdout.readline()
        began = time.monotonic()
        if after_s is not None:
            time.sleep(after_s)
            process.kill()
        status = process.wait()
    return status, time.monotonic() - began


def main(kills: int = 30) -> int:
    """Prints how many homes work after a kill; 0 where all do."""
    draw, broken, killed = random.Random(SEED), 0, 0
    with tempfile.TemporaryDirectory() as root:
        _, whole_s = use(Path(root) / "whole")
        for n in range(kills):
            home = Path(root) / str(n)
            killed += use(home, draw.uniform(0, whole_s))[0] < 0
            broken += use(home)[0] != 0
    print(f"first use of a registry: {kills} tries, {killed} killed within {whole_s:.1f} s, {broken} homes broken")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main(*map(int, sys.argv[1:])))
