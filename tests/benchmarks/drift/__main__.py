"""`make bench-drift`: false alarms, detection, other methods and cost of the drift monitor; writes docs/drift.json, then docs/drift.md from it.

    python -m tests.benchmarks.drift [part ...]

Each module beside this file has `run() -> list[row]`; with parts named, only those are measured and the other rows are kept. All data are
simulated; every table says from what.
"""

from __future__ import annotations

import importlib
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parents[2] / "docs"
PARTS = ("quiet", "detection", "others", "pixels", "mix", "label_free", "label_free_real", "cost")
HEADS = {
    "quiet": "False alarms: device-windows without any change in which the monitor raised an alarm",
    "detection": "Detection within three windows of a change of one feature's mean on one of eight devices",
    "others": "Other methods on the same windows, one window each, at the false-alarm rates that they have",
    "pixels": "Changes of pixels on one of eight devices, windows of 100 (see pixels.py)",
    "mix": "Other patients on an unchanged device, windows of 100 (see mix.py)",
    "label_free_real": "AUC without labels on real models: out-of-fold answers of the pipeline (see label_free_real.py)",
    "label_free": "AUC without labels: share of windows judged, of intervals that hold the device's true AUC, median width",
    "cost": "Cost",
}


def main(chosen: list[str]) -> int:
    if unknown := sorted(set(chosen) - set(PARTS)):
        print(f"no part {unknown}; there are {list(PARTS)}", file=sys.stderr)
        return 2
    path = DOCS / "drift.json"
    made: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"parts": {}}
    for part in chosen or PARTS:
        started = time.perf_counter()
        print(f"{part} ...", flush=True)
        rows = importlib.import_module(f"tests.benchmarks.drift.{part}").run()
        made["parts"][part] = {"rows": rows, "seconds": round(time.perf_counter() - started)}
        print(table(rows), flush=True)
        made["python"] = platform.python_version()
        path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        (DOCS / "drift.md").write_text(page(made), encoding="utf-8")
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    names = list(rows[0])
    lines = [" | ".join(str(row[name]) for name in names) for row in rows]
    return "\n".join(["| " + " | ".join(names) + " |", "|" + "---|" * len(names), *(f"| {line} |" for line in lines)])


def page(made: dict[str, Any]) -> str:
    out = [
        "# The drift monitor, measured",
        "",
        "Made by `make bench-drift` from `docs/drift.json`. Simulated events, 30 features of which a third is skewed, one has few values and all",
        "share 30 % of their variance, 8 devices, a reference of 2,000 events each. The unit is one alarm of a device after persistence (two of",
        "three windows), all features together. Bounds that are missed stay here.",
    ]
    for part in PARTS:
        if part in made["parts"]:
            found = made["parts"][part]
            notes = [found["note"], ""] if found.get("note") else []
            out += ["", f"## {HEADS[part]}", "", *notes, table(found["rows"])]
            out += ["", f"Measured in {found['seconds']} s."] if "seconds" in found else []
    return "\n".join(out) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
