"""One request on its way through the server, and when nobody waits for its answer any more."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


class Late(Exception):
    """The deadline passed before the work began."""


@dataclass(frozen=True)
class Ticket:
    """One request on its way through the server.

    Args:
        request_id: Made by the server.
        within_s: Its deadline, in seconds after it came.
        started: `time.perf_counter()` when it came.
        gone: Set when its client no longer waits for an answer.
    """

    request_id: str
    within_s: float
    started: float = field(default_factory=time.perf_counter)
    gone: threading.Event = field(default_factory=threading.Event)

    def left_s(self) -> float:
        """Until the deadline; not above 0 when it has passed."""
        return self.started + self.within_s - time.perf_counter()
