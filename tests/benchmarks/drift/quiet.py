"""How often does the monitor cry wolf?"""

from __future__ import annotations

from typing import Any

from components.monitor.detect import Detector
from tests.benchmarks.drift.world import DEVICES, Site

SIZES = (30, 100, 300, 1000)
SITES, WINDOWS = 10, 25
MOST = 12


def run() -> list[dict[str, Any]]:
    rows = []
    for n in SIZES:
        alarms = watched = 0
        for seed in range(SITES):
            site = Site(seed)
            detector = Detector(site.known)
            for _ in range(2):  # persistence has to have something to look back on
                detector.judge(site.sketched(detector, site.window(n)))
            for _ in range(WINDOWS):
                judged = detector.judge(site.sketched(detector, site.window(n)))
                alarms += sum(bool(j.alarm) for j in judged.values())
                watched += sum(bool(j.watch) for j in judged.values())
        total = SITES * WINDOWS * DEVICES
        rows.append(
            {
                "events in a window": n,
                "device-windows": total,
                "alarms": alarms,
                "bound": f"at most {MOST}",
                "holds": "yes" if alarms <= MOST else "NO",
                "single windows to watch": watched,
            }
        )
    return rows
