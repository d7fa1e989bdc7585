"""The judgement of harmonisation and training options by leave-one-device-out: writes docs/lodo.json, then docs/lodo.md from it.

    python -m tests.benchmarks.drift.lodo_page [phantoms] [ham10000]

About 25 minutes of one core; with `DXFLOW_LODO` set to a folder, what was trained there is not trained again.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from typing import Any

from tests.benchmarks.drift.__main__ import DOCS, table

PARTS = ("phantoms", "ham10000")
HEADS = {
    "overall": "Phantoms, all six together: mean AUC within a device, seen minus unseen (interval: unseen devices and seeds drawn again)",
    "modalities": "Each phantom: mean of two seeds, unseen over four devices",
    "devices": "Each unseen device",
    "ham10000": "HAM10000 (real), each source left out once: melanoma against the rest",
    "ham10000_sources": "Each source of HAM10000, and what was chosen without it",
}
INTRODUCTION = """# Devices that no training saw: leave one device out

Made by `python -m tests.benchmarks.drift.lodo_page` from `docs/lodo.json`. "Before" is a disease's default family without harmonisation and without
training options, "after" with what tuning chose (decision 0194); nothing else differs. The phantoms are synthetic. Their four unseen devices are
drawn from ranges of parameters in which no device of training or tuning lies (`lodo_devices.py`), their collections have seeds of their own,
and they were looked at once, after the choice was fixed. Bounds that are missed stay here.
"""


def main(chosen: list[str]) -> int:
    if unknown := sorted(set(chosen) - set(PARTS)):
        print(f"no part {unknown}; there are {list(PARTS)}", file=sys.stderr)
        return 2
    path = DOCS / "lodo.json"
    made: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for part in chosen or PARTS:
        started = time.perf_counter()
        made |= importlib.import_module(f"tests.benchmarks.drift.lodo_{part}").run()
        print(f"{part}: {time.perf_counter() - started:.0f} s", flush=True)
        path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        (DOCS / "lodo.md").write_text(page(made), encoding="utf-8")
    return 0


def page(made: dict[str, Any]) -> str:
    return "\n".join([INTRODUCTION, *(f"## {head}\n\n{table(made[name])}\n" for name, head in HEADS.items() if made.get(name))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
