"""`make real`: every row that has real data, with its references in the same run; writes docs/real.json and docs/real.md.

    python -m tests.real [name ...]

Each module beside this file has `main()`, which prints one JSON object on its last line: `row`, `data`, `metric`, `families` {name: {value,
low, high, n}}, `baseline` {name: figure}, `chance`, `seconds`, `peak_mb`, `notes`. Data are read from `DXFLOW_DATA`
and never copied; a set that is not there is left out and named. Nothing is selected on a test split.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DOCS = ROOT / "docs"
OTHERS = ("__main__", "__init__", "rows", "tables")


def data_folder() -> Path:
    """Where the real data sets lie."""
    return Path(os.environ.get("DXFLOW_DATA") or ROOT.parent / "shared" / "data")


def main(chosen: list[str]) -> int:
    """Measure and write both files; exit 0 also where a row missed its baseline, 1 where a module failed."""
    names = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in OTHERS)
    if unknown := sorted(set(chosen) - set(names)):
        print(f"no real row {unknown}; there are {names}", file=sys.stderr)
        return 2
    if not data_folder().is_dir():
        print("no real data: set DXFLOW_DATA to the folder that holds the sets", file=sys.stderr)
        return 2
    path = DOCS / "real.json"
    rows: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    failed = []
    for name in chosen or names:
        print(f"{name} ...", flush=True)
        row = measured(name)
        if row is None:
            failed.append(name)
            continue
        rows[name] = row
        path.write_text(json.dumps(dict(sorted(rows.items())), indent=1) + "\n", encoding="utf-8")  # a cut-off run keeps what it has
        (DOCS / "real.md").write_text(page(rows), encoding="utf-8")
        print("  " + "; ".join(f"{family} {_figure(figure)}" for family, figure in row["families"].items()), flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def measured(name: str) -> dict[str, Any] | None:
    """One module in a process of its own; None when it fails."""
    done = child(["-c", f"from tests.real.{name} import main; main()"], dict(os.environ))
    lines = done.stdout.strip().splitlines()
    if done.code or not lines:
        print(done.stderr[-2000:], file=sys.stderr)
        return None
    return {"peak_mb": done.peak_mb, **json.loads(lines[-1]), "seconds": done.seconds}


class Child(NamedTuple):
    """A finished process; `peak_mb` is the largest of it and of every process below it that it waited for."""

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_mb: int


def child(words: list[str], environment: dict[str, str]) -> Child:
    """Run Python with `words` in the repository, and measure that process alone, not those before it."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment, stdout=out, stderr=err, text=True)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        return Child(process.returncode, out.read(), err.read(), round(time.monotonic() - began, 1), round(usage.ru_maxrss / 1024))


def best(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The family that stands for the row: the one it names itself (`default`, chosen without the test split), else its first."""
    name = row.get("default") or next(iter(row["families"]))
    return name, row["families"][name]


def counts(row: dict[str, Any]) -> bool:
    """A row counts when its lower bound exceeds chance and a baseline is shown; one that is marked as no headline never does."""
    if not row.get("headline", True):
        return False
    low = best(row)[1].get("low")
    return low is not None and row.get("chance") is not None and low > row["chance"] and bool(row.get("baseline"))


def page(rows: dict[str, Any]) -> str:
    """The Markdown page of docs/real.json."""
    lines = [
        "# Real data",
        "",
        "Made by `make real` from `docs/real.json`. Small public sets. The runs choose nothing on a test split; what was looked at before them",
        "stands in the notes and in `docs/LOG.md`. A row counts when the lower end of its 95 % interval exceeds chance and a baseline of the",
        "same run is shown; a row that says it is no headline never does.",
        "",
        "| row | metric | family | figure (95 %) | chance | baseline | counts | seconds | MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(rows.items()):
        family, figure = best(row)
        base = "; ".join(f"{k} {_figure(v)}" for k, v in row.get("baseline", {}).items()) or "-"
        verdict = "yes" if counts(row) else "**no**"
        lines.append(
            f"| {name} | {row['metric']} | {family} | {_figure(figure)} | {_figure(row.get('chance'))} | {base} | {verdict} "
            f"| {_whole(row.get('seconds'))} | {_whole(row.get('peak_mb'))} |"
        )
    for name, row in sorted(rows.items()):
        lines += ["", f"## {name}", "", str(row["data"]), "", "| family | figure (95 %) | n |", "|---|---|---|"]
        lines += [f"| {family} | {_figure(figure)} | {figure.get('n', '-')} |" for family, figure in row["families"].items()]
        more = {k: v for k, v in row.items() if k not in KNOWN}
        lines += [""] + [f"- {key}: {_words(value)}" for key, value in more.items()] + [f"- {note}" for note in row.get("notes", [])]
    return "\n".join(lines) + "\n"


KNOWN = {"row", "data", "metric", "families", "baseline", "chance", "seconds", "peak_mb", "notes", "default", "headline"}


def _figure(figure: Any) -> str:
    if isinstance(figure, dict):
        if figure.get("value") is None:
            return str(figure.get("reason", "-"))
        if figure.get("low") is None:
            return f"{figure['value']:.3f}"
        return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"
    return f"{figure:.3f}" if isinstance(figure, int | float) else str(figure if figure is not None else "-")


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _words(value: Any) -> str:
    if isinstance(value, dict) and "value" not in value:
        return "; ".join(f"{k} {_words(v)}" for k, v in value.items())
    return _figure(value) if not isinstance(value, list) else ", ".join(_words(v) for v in value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
