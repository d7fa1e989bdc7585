"""Answers as a table, a row each: what `dxflow predict --out` writes and `--json` prints, so that nothing that a server said is lost on the way.

request_id             of the answer; None where the server refused the sample. `dxflow labels` takes the table with `label` and `at` added
sample, file, part     which one it is: the keyed hash of ingest, the file of the folder where it is known, and which part of it
decision, abstain      as the server gave them; a refused sample abstains
probability_<class>    one column each; empty where the model was not asked
set                    classes that cannot be ruled out
share, low, high, n    what was counted near the probability (`components/core/uncertainty.py`)
reasons
device, device_status  key; known, unseen, stale or unknown
model, digest          name:version, and of the package
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.core.atomic import atomic_file
from components.core.errors import SpecError

SUFFIXES = (".csv", ".parquet", ".jsonl")
LISTS = ("set", "reasons")


def row(answer: Mapping[str, Any], *, sample: str | None = None, file: str | None = None) -> dict[str, Any]:
    """One answer as a row; numbers as the server gave them."""
    sure = answer.get("uncertainty") or {}
    seen = sure.get("observed") or {}
    return {
        "request_id": answer["request_id"], "sample": sample, "file": file and shown(file), "part": part(answer), "decision": answer["decision"],
        "abstain": answer["abstain"], "probabilities": dict(answer["probabilities"]), "set": sure.get("set"),
        **{name: seen.get(name) for name in ("share", "low", "high", "n")}, "reasons": list(answer["reasons"]),
        "device": answer["device"]["key"], "device_status": answer["device"]["status"],
        "model": f"{answer['model']}:{answer['version']}", "digest": answer["digest"],
    }  # fmt: skip


def refused(reason: str, *, sample: str | None = None, file: str | None = None) -> dict[str, Any]:
    """The row of what the server did not take."""
    empty = dict.fromkeys(("request_id", "part", "decision", "set", "share", "low", "high", "n", "device", "device_status", "model", "digest"))
    return {**empty, "sample": sample, "file": file and shown(file), "abstain": True, "probabilities": {}, "reasons": [reason]}


def shown(name: str) -> str:
    """A file's name as tables and terminals can hold it: bytes that are no UTF-8, and what a terminal would obey, are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name)


def part(answer: Mapping[str, Any]) -> str | None:
    """`window 3, start_s 3.84`; None where the answer is about all of its file."""
    return ", ".join(f"{name} {value}" for name, value in (answer.get("part") or {}).items()) or None


def checked(path: Path) -> Path:
    """Raises SpecError before anything is asked for a file that cannot be written then."""
    if path.suffix.lower() not in SUFFIXES:
        raise SpecError("not a table that can be written", where="--out", got=path.suffix or "no suffix", allowed=", ".join(SUFFIXES))
    if not path.absolute().parent.is_dir():
        raise SpecError("no such folder", where="--out", got=str(path.absolute().parent))
    return path


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """The table, whole or not at all. In CSV lists are joined by "; ", in Parquet they stay lists, in JSON lines rows stay as they are."""
    with atomic_file(checked(path)) as partial:
        if path.suffix.lower() == ".jsonl":
            partial.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
            return
        flat = [_flat(one, _classes(rows)) for one in rows]
        if path.suffix.lower() == ".parquet":
            import pandas as pd

            pd.DataFrame(flat).to_parquet(partial, index=False)
            return
        with open(partial, "w", newline="", encoding="utf-8") as handle:
            writer = csv.DictWriter(handle, list(flat[0]) if flat else [])
            writer.writeheader()
            writer.writerows([one | {name: "; ".join(one[name] or ()) for name in LISTS} for one in flat])


def _classes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for one in rows for name in one["probabilities"]))


def _flat(one: Mapping[str, Any], classes: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, value in one.items():
        if name == "probabilities":
            out |= {f"probability_{c}": value.get(c) for c in classes}
        else:
            out[name] = value
    return out
