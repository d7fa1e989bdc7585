"""`make bench`: runs every `bench_*.py` beside this file and writes docs/benchmarks.json, then docs/benchmarks.md from it.

    python -m tests.benchmarks [name ...]

Each module has `run() -> list[Row]`. Figures that a bound judges are ratios measured in one run on one machine. A bound that is missed stays
in the page; with names given, only those are measured and the other rows are kept.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
VERSIONS = ("kfp", "torch", "pydicom", "pylibjpeg-openjpeg", "feast", "great-expectations", "evidently", "mlflow", "kserve", "onnxruntime", "numpy")


def main(chosen: list[str]) -> int:
    """Measure, write both files, and say what was missed; the exit code is 0 either way."""
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        print(f"no benchmark {unknown}; there are {names}", file=sys.stderr)
        return 2
    path = DOCS / "benchmarks.json"
    old: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": []}
    rows = [row for row in old["rows"] if chosen and row["group"] not in chosen]
    for name in chosen or names:
        started = time.perf_counter()
        print(f"{name} ...", flush=True)
        found = importlib.import_module(f"tests.benchmarks.bench_{name}").run()
        before = [row for row in old["rows"] if row["group"] == name]
        if before and all(row["value"] is None for row in found):  # measured where there was such a device: its rows name it
            found = before
        rows += [{"group": name, **row} for row in found]
        for row in found:
            print(f"  {_line(row)}", flush=True)
        print(f"  took {time.perf_counter() - started:.0f} s", flush=True)
    rows.sort(key=lambda row: row["group"])
    versions = {name: importlib.metadata.version(name) for name in VERSIONS}
    made = {
        "machine": {"cores": os.cpu_count(), "system": platform.system(), "python": platform.python_version()},
        "versions": versions,
        "rows": rows,
    }
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    (DOCS / "benchmarks.md").write_text(page(made), encoding="utf-8")
    missed = [row["name"] for row in rows if row["holds"] is False]
    print(f"{len(rows)} figures, {len(missed)} missed{': ' + '; '.join(missed) if missed else ''}")
    return 0


def _line(row: dict[str, Any]) -> str:
    bound = f" (bound {row['bound']}: {'holds' if row['holds'] else 'MISSED'})" if row.get("bound") else ""
    return f"{row['name']}: {_value(row)}{bound}"


def _value(row: dict[str, Any]) -> str:
    return "not measured" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"


def page(made: dict[str, Any]) -> str:
    """The Markdown page of the JSON file."""
    lines = [
        "# Benchmarks",
        "",
        f"Made by `make bench` from `docs/benchmarks.json`: {made['machine']['cores']} cores, Python {made['machine']['python']}.",
        "Ratios are measured side by side in one run; absolute figures depend on the machine. Rows without a bound are there to be read, not judged.",
    ]
    for group in dict.fromkeys(row["group"] for row in made["rows"]):
        machine = next((row["machine"] for row in made["rows"] if row["group"] == group and "machine" in row), None)
        lines += ["", f"## {group}", ""]
        lines += [f"Measured on another machine: {machine}.", ""] if machine else []
        lines += ["| figure | value | bound | holds |", "|---|---|---|---|"]
        for row in made["rows"]:
            if row["group"] == group:
                holds = "-" if row["holds"] is None else "yes" if row["holds"] else "**no**"
                lines.append(f"| {row['name']} | {_value(row)} | {row.get('bound') or '-'} | {holds} |")
    lines += ["", "Versions: " + ", ".join(f"{name} {version}" for name, version in made["versions"].items()) + ".", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
