"""Ingest against a bare pydicom loop over the same files: `dcmread(file).pixel_array`, in processes that have imported everything.

The hard case for ingest: every slice carries a nodule, so every slice is decoded and gives a sample. Times are marginal, (large - small)
over the files between them, because a run has fixed costs (processes, the feature store) that a loop has not; they are listed too.
"""

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
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from tests.ingest.made import JPEG_2000, KEY, ROOT, dataset, lung_nodule, marks, save

SLICES = 32
REPEATS = 3
SERIES = {"uncompressed": (4, 24), "JPEG 2000": (1, 5)}
SYNTAX = {"uncompressed": None, "JPEG 2000": JPEG_2000}
MEMORY_SERIES = (8, 32)
POLL_S = 0.02


def run() -> list[dict[str, Any]]:
    """Files per second and process relative to the bare loop, scaling to two processes, and peak memory at 1x and 4x."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kind, bound in (("uncompressed", 0.5), ("JPEG 2000", 0.9)):
            rows += _speed(folder / kind, kind, bound)
        rows += _memory(folder / "memory")
    return rows


def _speed(folder: Path, kind: str, bound: float) -> list[dict[str, Any]]:
    small, large = SERIES[kind]
    sources = {n: _source(folder / str(n), n, SYNTAX[kind]) for n in (small, large)}
    files = {n: sorted(str(p) for p in source.rglob("*.dcm")) for n, source in sources.items()}
    between = len(files[large]) - len(files[small])
    best: dict[tuple[str, int, int], float] = {}
    with _pool(1) as one, _pool(2) as two:
        for _ in range(REPEATS):
            for processes, pool in ((1, one), (2, two)):
                for n in (small, large):
                    _keep(best, ("bare", processes, n), _bare(pool, files[n], processes))
                    _keep(best, ("ingest", processes, n), _ingest(sources[n], folder / "out", processes))
    cost = {(what, p): (best[what, p, large] - best[what, p, small]) / between for what in ("bare", "ingest") for p in (1, 2)}
    per_core = cost["bare", 1] / cost["ingest", 1]
    scaling = (cost["ingest", 1] / cost["ingest", 2]) / (cost["bare", 1] / cost["bare", 2])
    fixed = best["ingest", 1, small] - len(files[small]) * cost["ingest", 1]
    return [
        _row(f"ingest per core, {kind}, against a bare decode loop", per_core, "x", f">= {bound}", per_core >= bound),
        _row(f"ingest scaling to two processes, {kind}, against the bare loop's", scaling, "x", ">= 0.9", scaling >= 0.9),
        _row(f"bare loop, {kind}, one process", 1e3 * cost["bare", 1], "ms a file", None, None),
        _row(f"ingest, {kind}, one process, a sample on every slice", 1e3 * cost["ingest", 1], "ms a file", None, None),
        _row(f"bare loop's own scaling to two processes, {kind}", cost["bare", 1] / cost["bare", 2], "x", None, None),
        _row(f"ingest, fixed cost of a run, {kind}", fixed, "s", None, None),
    ]


def _memory(folder: Path) -> list[dict[str, Any]]:
    peaks = [_peak(_source(folder / str(n), n, None), folder / "out") / 2**20 for n in MEMORY_SERIES]
    ratio = peaks[1] / peaks[0]
    return [
        _row("ingest, peak memory at 4x input against 1x, all processes", ratio, "x", "<= 1.15", ratio <= 1.15),
        _row(f"ingest, peak memory at 1x ({MEMORY_SERIES[0] * SLICES} slices of 512 x 512), two processes", peaks[0], "MiB", None, None),
        _row(f"ingest, peak memory at 4x ({MEMORY_SERIES[1] * SLICES} slices of 512 x 512), two processes", peaks[1], "MiB", None, None),
    ]


def _row(name: str, value: float, unit: str, bound: str | None, holds: bool | None) -> dict[str, Any]:
    return {"name": name, "value": round(value, 4), "unit": unit, "bound": bound, "holds": holds}


def _keep(best: dict[Any, float], key: Any, value: float) -> None:
    best[key] = min(value, best.get(key, value))


def _source(folder: Path, series: int, syntax: str | None) -> Path:
    """Series of 512 x 512 slices, a nodule on each slice; encoded once for each series."""
    generator = np.random.default_rng(0)
    for n in range(series):
        uid = f"1.2.3.{n + 1}"
        hu = np.clip(generator.normal(-700, 60, (512, 512)), -1024, 2000).astype(np.int16)
        d = dataset(uid, hu=hu, SoftwareVersions="VB42", InstitutionName="Hospital", KVP=120, ConvolutionKernel="B30f", Exposure=100)
        if syntax:
            d.compress(syntax, generate_instance_uid=False)
        for k in range(SLICES):
            d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"{uid}.{k + 1}"
            d.ImagePositionPatient, d.InstanceNumber = [0, 0, 2 * k], k + 1
            save(d, folder / str(n) / f"{k}.dcm")
        nodules = [(k, 60 + 12 * k, 80 + 11 * k, 8, [[1, 2, 1], [4, 5, 5]][k % 2]) for k in range(SLICES)]
        (folder / str(n) / "marks.xml").write_text(marks(uid, nodules))
    return folder


@contextlib.contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_decode, [[]] * processes))
        yield pool


def _decode(files: list[str]) -> int:
    import pydicom

    return sum(int(pydicom.dcmread(file).pixel_array[0, 0]) for file in files)


def _bare(pool: ProcessPoolExecutor, files: list[str], processes: int) -> float:
    pieces = [files[i : i + SLICES] for i in range(0, len(files), SLICES)]
    assert processes in (1, 2)
    started = time.perf_counter()
    list(pool.map(_decode, pieces))
    return time.perf_counter() - started


def _ingest(source: Path, out: Path, workers: int) -> float:
    from components.ingest.step import ingest

    with patch.dict(os.environ, {"DXFLOW_HOME": str(out / "home"), "DXFLOW_KEY": KEY}), contextlib.redirect_stdout(io.StringIO()):
        started = time.perf_counter()
        info = ingest(lung_nodule(), str(source), dataset=out / "dataset", features=out / "features", workers=workers)
        seconds = time.perf_counter() - started
    assert info["counts"]["samples"] == sum(1 for _ in source.rglob("*.dcm"))
    return seconds


def _peak(source: Path, out: Path) -> int:
    """Largest sum of resident memory over a run's processes, in bytes."""
    import psutil

    program = (
        "import sys; from pathlib import Path; from tests.ingest.made import lung_nodule; from components.ingest.step import ingest; "
        "out = Path(sys.argv[2]); ingest(lung_nodule(), sys.argv[1], dataset=out / 'dataset', features=out / 'features', workers=2)"
    )
    env = os.environ | {"DXFLOW_HOME": str(out / "home"), "DXFLOW_KEY": KEY, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", program, str(source), str(out)], env=env, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            resident = 0
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    resident += one.memory_info().rss
            peak = max(peak, resident)
        time.sleep(POLL_S)
    assert process.returncode == 0
    return peak


if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
