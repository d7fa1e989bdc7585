"""`make rows`: run every disease's own command and write what came out into the catalogue and the README.

    python -m tests.real.rows [disease ...]

Diseases with a phantom run on it, in the size of their spec; those without run on their real data. Measured with both cores and nothing
else at work. The figures of `make real` (docs/real.json) are lines of the same table. Writes `pipelines/diseases/measured.json`, which
`dxflow diseases` shows, and the table between the marks in README.md.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from components.core.spec import DiseaseSpec
from pipelines import catalog
from tests.real.__main__ import DOCS, ROOT, Child, best, child, counts, data_folder

README = ROOT / "README.md"
START, END = "<!-- rows: made by `make rows` -->", "<!-- /rows -->"
KEY = "rows-of-public-and-synthetic-data"
"""Of the pseudonyms, by which groups are split: with a new one each time, two rows would differ by who is tested."""
SOURCES = {
    "breast-cytology": "package:sklearn/datasets/data/breast_cancer.csv",
    "lung-candidate": "$DXFLOW_DATA/lung-nodule-luna16",
    "alzheimer-slices": "$DXFLOW_DATA/alzheimer-mri-slices",
    "retinopathy-mnist": "$DXFLOW_DATA/retinopathy-retinamnist",
    "skin-ham10000": "$DXFLOW_DATA/skin-ham10000",
}
"""Where the diseases without a phantom have their data."""
REAL_ROWS = {
    "lung_candidate": "lung-candidate", "retinamnist": "retinopathy-mnist", "ham10000": "skin-ham10000", "daphnet": "parkinson-fog",
    "camelyon_features": "breast-metastasis", "alzheimer_slices": "alzheimer-slices", "breast_cytology": "breast-cytology",
}  # fmt: skip
"""Modules of tests/real and the disease whose families they train."""


def main(chosen: list[str]) -> int:
    """Run, write, and say what failed; exit 1 when a command did."""
    path = catalog.MEASURED
    kept = {row["disease"]: row for row in catalog.measured() if row["data"] == "own"}
    failed = []
    for name in chosen or catalog.names():
        print(f"{name} ...", flush=True)
        row = run(catalog.load(name))
        if row is None:
            failed.append(name)
            continue
        kept[name] = row
        print(f"  {row['metric']} {row['value']} ({row['low']}-{row['high']}), {row['seconds']} s, {row['peak_mb']} MB", flush=True)
        write(path, kept)
    write(path, kept)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def write(path: Path, kept: dict[str, Any]) -> None:
    """Both files, from what is known so far."""
    rows = [kept[name] for name in sorted(kept) if name in catalog.names()] + real_rows()
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    before, after = text.split(START)[0], text.split(END)[1]
    README.write_text(before + START + "\n\n" + "\n".join(table(rows)) + "\n\n" + END + after, encoding="utf-8")


def run(spec: DiseaseSpec) -> dict[str, Any] | None:
    """The disease's default family and, where it has one, its baseline on hand-made features, through the command; None when it fails."""
    with tempfile.TemporaryDirectory(prefix="dxflow-rows-") as folder:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("DXFLOW_", "MLFLOW_"))} | {"DXFLOW_HOME": f"{folder}/home"}
        environment["DXFLOW_KEY"] = KEY
        if spec.phantom is not None:
            words = f"dxflow phantom {spec.name} --out data && dxflow run {spec.name} --source data"
            source = f"{folder}/data"
            if _dxflow(["phantom", spec.name, "--out", source], environment) is None:
                return None
        else:
            words = f"dxflow run {spec.name} --source {SOURCES[spec.name]}"
            source = SOURCES[spec.name].replace("$DXFLOW_DATA", str(data_folder()))
            if not source.startswith("package:") and not Path(source).exists():
                print("  no data here: left out")
                return None
        found = _dxflow(["run", spec.name, "--source", source], environment)
        if found is None:
            return None
        done, result = found
        metric = spec.metrics[0]
        row = {
            "disease": spec.name, "data": "own", "command": words, "synthetic": result["synthetic"], "family": spec.default_family, "metric": metric,
            **{key: _round(result["metrics"][metric][key]) for key in ("value", "low", "high")}, "n": result["metrics"][metric]["n"],
            "verdict": result["verdict"], "chance": 0.0 if metric == "qwk" else 0.5, "seconds": done.seconds, "baseline": None,
            "peak_mb": done.peak_mb,
        }  # fmt: skip
        simple = [name for name, family in spec.families.items() if family.kind.startswith("features-") and name != spec.default_family]
        if simple:
            other = _dxflow(["run", spec.name, "--source", source, "--family", simple[0]], environment)
            if other is not None:
                row["baseline"] = {"family": simple[0], **{k: _round(other[1]["metrics"][metric][k]) for k in ("value", "low", "high")}}
        return row


def real_rows() -> list[dict[str, Any]]:
    """Lines of `make real`."""
    path = DOCS / "real.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = []
    for module, row in sorted(found.items()):
        family, figure = best(row)
        rows.append(
            {
                "disease": REAL_ROWS.get(module, module), "data": module, "command": f"python -m tests.real {module}", "synthetic": False,
                "family": family, "metric": row["metric"], **{key: _round(figure.get(key)) for key in ("value", "low", "high")}, "n": figure.get("n"),
                "chance": row.get("chance"), "seconds": row.get("seconds"), "peak_mb": row.get("peak_mb"), "counts": counts(row),
                "baseline": next(({"family": k, **(v if isinstance(v, dict) else {"value": _round(v)})} for k, v in row["baseline"].items()), None),
            }
        )  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> list[str]:
    """The README's lines."""
    lines = [
        "| disease (survey row) | data format | families | data | metric | measured (95 %) | baseline | command |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda r: (r["disease"], not r["synthetic"])):
        spec = catalog.load(row["disease"])
        base = row["baseline"]
        lines.append(
            f"| {row['disease']} ({spec.survey_row or '-'}) | {spec.input.format or spec.input.reader} | {', '.join(spec.families)} "
            f"| {'synthetic' if row['synthetic'] else 'real'} | {row['metric']} | {row['family']} {catalog.figure(row)} "
            f"| {base['family'] + ' ' + catalog.figure(base) if base else '-'} | `{row['command']}` |"
        )
    return lines


def _dxflow(words: list[str], environment: dict[str, str]) -> tuple[Child, dict[str, Any]] | None:
    done = child(["-m", "pipelines", *words, "--json"], environment)
    if done.code:
        print(f"  {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'exit ' + str(done.code)}", flush=True)
        return None
    return done, json.loads(done.stdout.strip().splitlines()[-1])


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
