"""Whether a device that gives no answers in a window is silent, or has a day off."""

from __future__ import annotations

import math

from components.monitor.state import State

DAY_S = 86_400
QUIET = 7
"""Windows over which a device's usual number of events is taken."""
SILENT_P = 0.01


def usual(memory: State, device: str, start: int, window_s: int) -> float:
    """Mean events of a device's last `QUIET` windows before the one that begins at `start`; 0 where nobody watched so long ago."""
    first = min(memory.windows(), default=start)
    starts = [start - k * window_s for k in range(1, QUIET + 1)]
    counts = [_n(memory, device, at) for at in starts if at >= first]
    return sum(counts) / len(counts) if counts else 0.0


def misses(memory: State, device: str, start: int, window_s: int) -> bool:
    """Poisson: would so quiet a window come less than once in a hundred? Once silent, a device stays so until it answers.

    A day on which the device was silent a week ago, too, is its day off.
    """
    if any(a["open"] and a["kind"] == "silent" and a["device_key"] == device for a in memory.alarms()):
        return True
    week_ago = start - 7 * DAY_S
    if window_s == DAY_S and not _n(memory, device, week_ago) and memory.merged(device, 0, week_ago) is not None:
        return False
    return math.exp(-usual(memory, device, start, window_s)) < SILENT_P


def _n(memory: State, device: str, start: int) -> int:
    found = memory.sketch(start, device)
    return found[0].n if found else 0
