"""Damaged recordings by the thousand, drawn at random: times that add up, windows that do not depend on how a file is read, or one plain line.

`python -m tests.soak.clocks [number] [seed]`; exits with 1 when seconds were lost without a reason, anything but a refusal was raised, or a
window that no damage touches differs from that of the undamaged recording.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections import Counter

import numpy as np

from components.core.errors import DataError
from components.core.recordings import table
from tests.ingest.clocks import JUDGED_S, WINDOW_S, Made, batched, cut, read, set_back, walk, wild

RATES = (33.0, 40.0, 50.0, 64.0, 100.0, 200.0)
SECONDS = 40.0
STAMPS = (0.0, -1.0, 999_999_999.0, 4_294_967_295.0, 1.7e12)


def damaged(draw: random.Random) -> tuple[Made, list[str]]:
    """A recording with up to eight kinds of damage, and their names."""
    made = walk(SECONDS, draw.choice(RATES))
    kinds: list[str] = draw.choices(("wild", "set", "hole", "far", "dead", "jitter"), k=draw.randrange(6))
    if draw.random() < 0.2:
        kinds.insert(0, "batch")
        batched(made, draw.randrange(2, 50), last=draw.random() < 0.5)
    for kind in kinds:
        row = draw.randrange(len(made.rows))
        part = slice(row, row + draw.choice((1, 1, 3, 40, 400)))
        if kind == "wild":
            wild(made, [row], [draw.choice(STAMPS)])
        elif kind == "set":
            set_back(made, row, draw.uniform(0, 2e5))
        elif kind == "hole":
            made.rows[part, 1 + draw.randrange(9)] = np.nan
        elif kind == "far":
            made.rows[part, 1 + draw.randrange(9)] = draw.choice((-1e9, 1e9, 5e4))
        elif kind == "dead":
            made.rows[part, 1 + draw.randrange(9)] = 17
        elif kind == "jitter":
            made.rows[:, 0] += np.random.default_rng(draw.randrange(1 << 30)).uniform(-0.15, 0.15, len(made.rows)) * 1000 / made.rate
    if draw.random() < 0.3:
        kinds.append("gap")
        row = draw.randrange(1, len(made.rows) - 400)
        cut(made, row, draw.randrange(1, 300))
    return made, kinds


def judged(made: Made, kinds: list[str], whole: dict[str, list[np.ndarray]]) -> str | None:
    """What is wrong with how a recording was read; None for nothing."""
    found, reading = read(made.text())
    told = reading.coverage().to_dict()
    if abs(told["judged_s"] + sum(told["not_judged_s"].values()) - told["seconds"]) > 0.02:
        return "the seconds do not add up"
    if not {"wild", "set", "batch"} & set(kinds) and abs(told["seconds"] - SECONDS) > 10 * len(kinds) / made.rate + 0.1:
        return f"{told['seconds']} seconds of {SECONDS}"
    if told["windows"] != sum(w.fault is None for w in found):
        return "another number of windows"
    if told["windows_missing"] and not told["not_judged_s"]:
        return "windows missing without a reason"
    if set(kinds) == {"wild"} and not {0, 1, 2, len(made.rows) - 1, len(made.rows) - 2} & made.touched:
        clean = whole.setdefault(str(made.rate), [w.values for w in read(walk(SECONDS, made.rate).text())[0]])
        touched = [1 + row / made.rate for row in made.touched]
        for w, values in zip(found, clean, strict=True):
            near = any(w.start_s + WINDOW_S - JUDGED_S <= t < w.start_s + WINDOW_S for t in touched)
            if (w.fault == table.CLOCK) != near or np.abs(w.values - values).max() > 0.5:
                return "a window that no damage touches differs"
    if kinds.count("jitter") > 1:  # steps of up to 1.6 periods: which are gaps hangs on the period's last digits, and that on the first piece
        return None
    pieces, _ = read(made.text(), size=1499)
    if [(w.fault, round(w.start_s, 2)) for w in pieces] != [(w.fault, round(w.start_s, 2)) for w in found] and "batch" not in kinds:
        return "other windows in pieces"
    return None


def main() -> int:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 20_261_201
    draw, began = random.Random(seed), time.process_time()
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    whole: dict[str, list[np.ndarray]] = {}
    for n in range(number):
        made, kinds = damaged(draw)
        try:
            problem = judged(made, kinds, whole)
            outcomes["read"] += 1
        except DataError as refused:
            problem = None
            outcomes["refused: " + str(refused).split(" at ")[0][:40]] += 1
        except Exception as error:  # the very thing that is looked for
            problem = type(error).__name__
        if problem:
            wrong.append(f"{n} ({', '.join(kinds)}): {problem}")
    print(json.dumps({"recordings": number, "outcomes": dict(outcomes), "mean_ms": round(1000 * (time.process_time() - began) / number)}), flush=True)
    print(*wrong[:20], f"{len(wrong)} faults in {number} recordings", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
