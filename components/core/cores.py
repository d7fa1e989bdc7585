"""How many cores this process may really use, and how to share them."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores of this process: `OMP_NUM_THREADS` if set, else its affinity, cut to the cgroup's CPU quota; at least 1.

    A container limited to 2 of a node's 64 cores still sees 64 in `os.cpu_count()`, and 64 threads on 2 cores are slower than 2.

    Args:
        cgroup: Where the cgroup file system is mounted; `cpu.max` (version 2), `cpu/cpu.cfs_quota_us` and `cpu.cfs_period_us` (version 1).
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, min(cores, math.ceil(quota))) if quota is not None else max(1, cores)


def wait_asleep() -> None:
    """Let OpenMP's threads sleep while they wait for one another; call it before torch is imported, which reads it once.

    By default they spin. On a machine with other work a spinning thread keeps the very core that the awaited one needs: two threads on two
    busy cores took 24 s where sleeping ones took 6 s for the same batches. `OMP_WAIT_POLICY` in the environment wins.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _quota(cgroup: Path) -> float | None:
    """The cgroup's CPU quota in cores, None where there is no limit or no cgroup."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / name).read_text() for name in files).split()
        except (OSError, ValueError):
            continue
        return int(quota) / int(period) if quota.isdigit() and int(period) > 0 else None
    return None
