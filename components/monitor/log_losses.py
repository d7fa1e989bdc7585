"""What is not in the log, as alarms: a segment that is damaged or gone, and answers that no disk took.

Each is told once. A segment's alarm ends when it can be read again (a backup was put back); any ends after `CALM` windows, since what is lost
stays lost, and an alarm that never ends hides the next one. The counts stay in summary.json and the metrics.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

from components.core.inference_log import Tally
from components.monitor.alarms import CALM, iso

if TYPE_CHECKING:
    from components.monitor.state import State

KIND = "log_loss"
WHERE = "inference log"
MEMORY = "log_losses"


def update(memory: State, disease: str, tally: Tally, now: int, window_s: int) -> None:
    """Open, keep and close the alarms of losses.

    Args:
        tally: Of a whole reading of the log.
        now: Unix seconds.
    """
    told: dict[str, Any] = memory.get(MEMORY, {"segments": {}, "lost": 0})
    segments = {f"{one.segment} {one.why}": str(one) for one in tally.unread}
    for key in segments.keys() - told["segments"].keys():
        told["segments"][key] = _open(memory, disease, key, segments[key], now)
    whole_again = {told["segments"].pop(key) for key in told["segments"].keys() - segments.keys()}
    if tally.lost.n > told["lost"]:
        text = f"{tally.lost.n - told['lost']} answers are not in the log: it could not be written, last at {tally.lost.until}"
        _open(memory, disease, f"lost {tally.lost.n}", text, now)
    told["lost"] = tally.lost.n  # also where it fell with a segment that says how many: the next loss would else be taken for an old one
    for alarm in memory.alarms():
        if alarm["kind"] == KIND and alarm["open"]:
            over = now - int(datetime.fromisoformat(alarm["since"]).timestamp()) >= CALM * window_s
            memory.set_alarm(alarm | {"open": alarm["id"] not in whole_again and not over, "last": iso(now)})
    memory.put(MEMORY, told)


def _open(memory: State, disease: str, what: str, evidence: str, now: int) -> str:
    name = hashlib.sha256(f"{disease}|{KIND}|{what}|{now}".encode()).hexdigest()[:16]
    memory.set_alarm({
        "id": name, "kind": KIND, "device_key": "", "label": WHERE, "evidence": evidence, "since": iso(now), "last": iso(now), "open": True,
        "calm": 0, "report": "", "mix": "",
    })  # fmt: skip
    return name
