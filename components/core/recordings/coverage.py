"""How much of a recording is judged, and why the rest is not: seconds that add up to its length."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

BEFORE, RESUMED = "before the first whole window", "before the first whole window after a break"
BEHIND, SHORT, BETWEEN = "after the last whole window", "shorter than a window", "between windows"


@dataclass
class Coverage:
    """Of one recording; `lost_s` is {reason: seconds}.

    Args:
        rate_hz, length, labelled, stride: Of the spec's windows, in samples of `rate_hz`; a window is judged on its last `labelled` ones.
    """

    rate_hz: float
    length: int
    labelled: int
    stride: int
    judged_s: float = 0.0
    windows: int = 0
    flows: int = 0
    lost_s: dict[str, float] = field(default_factory=dict)

    @property
    def recorded_s(self) -> float:
        """Judged or not; gaps of which the clock tells are part of it."""
        return self.judged_s + math.fsum(self.lost_s.values())

    @property
    def missing(self) -> int:
        """Windows that a recording of this length would have had, less those that can be used."""
        possible = math.floor((self.recorded_s * self.rate_hz - self.length) / self.stride + 1e-6) + 1
        return max(0, possible - self.windows)

    def lose(self, reason: str, seconds: float) -> None:
        """Time that no window can be cut from."""
        if seconds > 0:
            self.lost_s[reason] = self.lost_s.get(reason, 0.0) + float(seconds)

    def flow(self, seconds: float, faults: Sequence[str | None]) -> None:
        """Rows without a break, and the fault of each window that was cut from them, in order. A moment counts as judged where one sound window
        judges it; else the first faulty one gives the reason."""
        self.flows += 1
        if not faults:
            self.lose(SHORT, seconds)
            return
        context = self.length - self.labelled
        reasons = list(dict.fromkeys(fault for fault in faults if fault is not None))
        state = np.zeros((len(faults) - 1) * self.stride + self.labelled, dtype=np.uint16)  # of each sample from the first judged one
        for k, fault in enumerate(faults):
            part = state[k * self.stride : k * self.stride + self.labelled]
            part[part != 1 if fault is None else part == 0] = 1 if fault is None else 2 + reasons.index(fault)
        counts = np.bincount(state, minlength=2 + len(reasons)) / self.rate_hz
        over = max(0.0, (context + len(state)) / self.rate_hz - seconds)  # the last sample may end after the last row does
        counts[state[-1]] -= over
        self.judged_s += float(counts[1])
        self.windows += sum(fault is None for fault in faults)
        for reason, lost in zip([BETWEEN, *reasons], [counts[0], *counts[2:]], strict=True):
            self.lose(reason, lost)
        self.lose(BEFORE if self.flows == 1 else RESUMED, context / self.rate_hz)
        self.lose(BEHIND, seconds - (context + len(state)) / self.rate_hz)

    def to_dict(self) -> dict[str, Any]:
        """`seconds` is the sum of `judged_s` and all of `not_judged_s`, to the rounding of each to a millisecond."""
        lost = {reason: round(seconds, 3) for reason, seconds in sorted(self.lost_s.items(), key=lambda item: -item[1])}
        return {
            "seconds": round(self.recorded_s, 3), "judged_s": round(self.judged_s, 3), "windows": self.windows, "windows_missing": self.missing,
            "not_judged_s": {reason: seconds for reason, seconds in lost.items() if seconds},
        }  # fmt: skip

    def __str__(self) -> str:
        told = self.to_dict()
        lost = ", ".join(f"{reason} {seconds:.1f} s" for reason, seconds in told["not_judged_s"].items())
        return f"{told['judged_s']:.1f} of {told['seconds']:.1f} s judged" + (f"; not judged: {lost}" if lost else "")
