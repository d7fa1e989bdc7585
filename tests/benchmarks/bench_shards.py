"""Which shard format: random batches of 64 samples (1, 52, 52) int16 from 8,192, warm, as a training epoch reads them."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

N, SHAPE, BATCH = 8192, (1, 52, 52), 64


def run() -> list[dict[str, Any]]:
    """Samples per second of each candidate, and of plain memory, read in the same random order."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image
    from safetensors import safe_open
    from safetensors.numpy import save_file

    generator = np.random.default_rng(0)
    data = generator.integers(-1000, 400, (N, *SHAPE)).astype(np.int16)
    order = generator.permutation(N)
    flat = data.reshape(N, -1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "a.npy", data)
        save_file({"x": data}, folder / "a.safetensors")
        table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), flat.shape[1])})
        with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        pq.write_table(table, folder / "a.parquet", row_group_size=BATCH)
        pngs = []
        for sample in data[:512]:
            buffer = io.BytesIO()
            Image.fromarray(sample[0].astype(np.uint16)).save(buffer, "PNG")
            pngs.append(buffer.getvalue())

        mapped = np.load(folder / "a.npy", mmap_mode="r", allow_pickle=False)
        arrow = pa.ipc.open_file(pa.memory_map(str(folder / "a.arrow"))).read_all()["x"].combine_chunks()
        parquet = pq.ParquetFile(folder / "a.parquet")
        with safe_open(folder / "a.safetensors", framework="numpy") as tensors:
            piece = tensors.get_slice("x")
            readers: dict[str, Callable[[NDArray[np.int64]], Any]] = {
                "memory": lambda rows: data[rows],
                ".npy, memory-mapped": lambda rows: mapped[rows],
                "Arrow IPC, memory-mapped": lambda rows: np.asarray(arrow.take(pa.array(rows)).flatten()).reshape(-1, *SHAPE),
                "safetensors, one slice a sample": lambda rows: np.stack([piece[int(r) : int(r) + 1][0] for r in rows]),
                "Parquet, one row group a batch": lambda rows: [parquet.read_row_group(int(r) // BATCH) for r in rows],
                "PNG, decoded every time": lambda rows: [np.asarray(Image.open(io.BytesIO(pngs[int(r) % 512]))) for r in rows],
            }
            rates = {label: _rate(read, order, batches=4 if "Parquet" in label else 128) for label, read in readers.items()}
    rows = [{"name": f"{label}: random samples a second", "value": rate, "unit": "1/s", "bound": "", "holds": None} for label, rate in rates.items()]
    share = rates[".npy, memory-mapped"] / rates["memory"]
    return [{"name": ".npy memory-mapped against plain memory", "value": share, "unit": "x", "bound": ">= 0.8", "holds": share >= 0.8}, *rows]


def _rate(read: Callable[[NDArray[np.int64]], Any], order: NDArray[np.int64], *, batches: int) -> float:
    best = 0.0
    for _ in range(4):
        started = time.perf_counter()
        for n in range(batches):
            read(order[n * BATCH : (n + 1) * BATCH])
        best = max(best, batches * BATCH / (time.perf_counter() - started))
    return best
