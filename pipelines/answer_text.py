"""Answers of a server as a person reads them in a terminal of 80 columns, in the words of `serving/said.py`."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from components.core import wording
from serving.said import ASSISTS, device, said

WIDTH, LABEL = 80, 11
NAME = 34
"""Columns for the name of a file or a sample."""


def answer_text(answers: Sequence[Mapping[str, Any]]) -> str:
    """Answers about one file: one in full; of a recording a summary and its stretches; else a line each."""
    first = answers[0]
    note = "   SYNTHETIC MODEL" if first["synthetic"] else ""
    if len(answers) == 1:
        told = said(first)
        lines = [_line("decision", ("no decision" if first["abstain"] else str(first["decision"])) + note)]
        lines += [_line("" if n else "because" if first["abstain"] else "meaning", line) for n, line in enumerate(told.lines)]
        lines += [_line("scores", _scores(first))] if first["probabilities"] else []
    elif all("window" in (a.get("part") or {}) for a in answers):
        lines = [_line("windows", f"{len(answers)}: {_counted(answers)}{note}"), *_stretches(answers)]
        lines += [_line("recording", recording_text(first["recording"]))] if first.get("recording") else []
    else:
        lines = [f"samples    {len(answers)}{note}"]
        lines += [f"{_part(a):<20} {_decided(a)}; scores {_scores(a)}" for a in answers]
    lines += [_line("device", device(first)), _line("key", f"{first['device']['key']} ({first['device']['status']})")]
    lines += [
        _line("model", f"{first['model']}:{first['version']}"),
        _line("request", str(first["request_id"]).rpartition("-")[0] or first["request_id"]),
    ]
    return "\n".join([*lines, *textwrap.wrap(ASSISTS, WIDTH)])


def replay_text(found: Mapping[str, Any]) -> str:
    """Answers about a folder: counts, then a line for each answer, of recordings for each file."""

    def counted(part: Mapping[str, int]) -> str:
        return ", ".join(f"{name} {n}" for name, n in part.items()) or "-"

    lines = [
        f"samples    {found['samples']}" + ("   SYNTHETIC MODEL" if found["synthetic"] else ""),
        _line("decisions", counted(found["decisions"])),
        _line("abstained", f"{found['abstained']}" + (f" ({counted(found['reasons'])})" if found["reasons"] else "")),
        *([_line("refused", str(found["refused"]))] if found["refused"] else []),
        _line("devices", counted(found["devices"])),
        f"model      {found['model']}:{found['version']}",
        "",
    ]
    if found["recordings"]:
        lines += [f"{'recording':<{NAME}} {'windows':>7} {'no answer':>9}  decisions"]
        lines += [_cut(f"{_short(r['file']):<{NAME}} {r['windows']:>7} {r['abstained']:>9}  {counted(r['decisions'])}") for r in found["recordings"]]
        lines += [f"{_short(r['file']):<{NAME}} {'-':>7} {'-':>9}  refused" for r in found["rows"] if r["request_id"] is None]
    else:
        asked = found.get("positive")
        lines += [f"{'sample':<{NAME}} {'decision':<20} {(asked['name'] if asked else 'highest')[:13]:>13}  {'device':<8}"]
        lines += [_row(r, asked) for r in found["rows"]]
    return "\n".join([*lines, *textwrap.wrap(ASSISTS, WIDTH)])


def recording_text(told: Mapping[str, Any]) -> str:
    """How much of a recording the windows judge, and why not the rest; a whole recording's end and beginning are among it."""
    lost = ", ".join(f"{reason} {seconds:.1f} s" for reason, seconds in told["not_judged_s"].items())
    text = f"{told['judged_s']:.1f} of {told['seconds']:.1f} s judged in {told['windows']} windows, {told['windows_missing']} missing"
    return text + (f"; not judged: {lost}" if lost else "")


def _row(row: Mapping[str, Any], asked: Mapping[str, Any] | None) -> str:
    name = _short(row["file"] or row["sample"] or "-")
    p = row["probabilities"]
    if row["abstain"]:
        return _cut(f"{name:<{NAME}} {'no answer: ' + '; '.join(row['reasons'])}")
    value = sum(p[c] for c in asked["classes"]) if asked else max(p.values())
    return f"{name:<{NAME}} {row['decision'][:20]:<20} {wording.probability(value):>13}  {row['device_status']:<8}".rstrip()


def _stretches(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Neighbouring windows of one decision as a line, with the seconds in which they begin and the highest probability of what was asked."""
    lines = []
    for decided, group in groupby(answers, key=lambda a: "no answer" if a["abstain"] else str(a["decision"])):
        own = list(group)
        start, end = own[0]["part"]["start_s"], own[-1]["part"]["start_s"]
        ids = f"{own[0]['part']['window']}" if len(own) == 1 else f"{own[0]['part']['window']}-{own[-1]['part']['window']}"
        why = "; ".join(dict.fromkeys(r for a in own for r in a["reasons"])) if own[0]["abstain"] else _highest(own)
        seconds = f"{start:.1f} s" if len(own) == 1 else f"{start:.1f} to {end:.1f} s"
        lines.append(_line(f"{ids:>9}", f"begin{'s' if len(own) == 1 else ''} at {seconds}: {decided}, {why}"))
    return lines


def _highest(own: Sequence[Mapping[str, Any]]) -> str:
    asked = own[0].get("positive")
    if not asked:
        p, asked = [max(a["probabilities"].values()) for a in own], {"name": "highest"}
    else:
        p = [sum(a["probabilities"][c] for c in asked["classes"]) for a in own]
    ends = dict.fromkeys(wording.probability(v) for v in (min(p), max(p)))
    return f"{asked['name']} {' to '.join(ends)}"


def _counted(answers: Sequence[Mapping[str, Any]]) -> str:
    names = [("no answer" if a["abstain"] else str(a["decision"])) for a in answers]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _decided(answer: Mapping[str, Any]) -> str:
    return f"no decision ({'; '.join(answer['reasons'])})" if answer["abstain"] else answer["decision"]


def _scores(answer: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {wording.probability(p)}" for name, p in answer["probabilities"].items()) or "-"


def _part(answer: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in (answer.get("part") or {}).items())


def _cut(text: str) -> str:
    """One line of a table; what does not fit is in the table that `--out` writes, and in the counts above."""
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."


def _short(text: str) -> str:
    return text if len(text) <= NAME else f"...{text[3 - NAME :]}"


def _line(label: str, text: str) -> str:
    """A label, and text wrapped beside it."""
    return textwrap.fill(
        text, WIDTH, initial_indent=f"{label:<{LABEL}}", subsequent_indent=" " * LABEL, break_long_words=False, break_on_hyphens=False
    )
