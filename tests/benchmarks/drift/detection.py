"""Does the monitor see a change of one feature on one device, and name both?"""

from __future__ import annotations

from typing import Any

import numpy as np

from components.monitor.detect import Detector
from tests.benchmarks.drift.world import FEATURES, NAMES, Site

CASES = ((300, 0.3, 0.95), (100, 0.5, 0.95), (100, 0.3, None), (30, 0.5, None), (30, 1.0, None), (1000, 0.2, None))
SITES = 5


def run() -> list[dict[str, Any]]:
    rows = []
    for n, shift, bound in CASES:
        delays, right, others, tried = [], 0, 0, 0
        for seed in range(SITES):
            site = Site(100 + seed)
            for feature in range(FEATURES):
                detector = Detector(site.known)
                for _ in range(2):
                    detector.judge(site.sketched(detector, site.window(n)))
                tried += 1
                for delay in (1, 2, 3):
                    judged = detector.judge(site.sketched(detector, site.window(n, changed=(feature, shift))))
                    others += sum(bool(j.alarm) for device, j in judged.items() if device != "d0")
                    if judged["d0"].alarm:
                        delays.append(delay)
                        right += judged["d0"].alarm[0].feature == NAMES[feature]
                        break
        found = len(delays) / tried
        rows.append(
            {
                "events in a window": n,
                "shift (standard deviations)": shift,
                "tried": tried,
                "found": f"{found:.3f}",
                "bound": "" if bound is None else f"at least {bound}",
                "holds": "" if bound is None else "yes" if found >= bound else "NO",
                "feature named first": f"{right / max(1, len(delays)):.3f}",
                "mean delay (events)": round(float(np.mean(delays)) * n) if delays else "",
                "alarms of the seven others": others,
            }
        )
    return rows
