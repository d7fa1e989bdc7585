"""What the command prints: tables, progress bars, summaries. Results on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from components.core.spec import DiseaseSpec
from components.core.step import parse


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print a table; in a pipe it stays plain text without colour."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for n, column in enumerate(columns):
        made.add_column(column, overflow="fold", no_wrap=n == 0)
    for row in rows:
        made.add_row(*(str(cell) for cell in row))
    console = Console()
    Console(width=console.width if console.is_terminal else 160).print(made)


class Bars:
    """Progress bars fed by step events; plain lines where stderr is no terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._progress: Any = None
        self._tasks: dict[str, Any] = {}
        self._step = ""

    def __enter__(self) -> Bars:
        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            self._progress = Progress(
                TextColumn("{task.description:32}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[figures]}"),
                console=Console(stderr=True),
            )  # fmt: skip
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress is not None:
            self._progress.stop()

    def event(self, event: dict[str, Any]) -> None:
        """Show one event of `components/core/step.py`."""
        if event["event"] == "warning":
            self._say(f"warning: {event['text']}")
        elif event["event"] == "step-start":
            self._step = str(event["step"])
            if self._progress is not None:
                self._tasks[self._step] = self._progress.add_task(self._step, total=1, figures="")
            else:
                self._say(f"{self._step} ...")
        elif event["event"] == "step-end":
            if self._progress is not None:
                self._progress.update(self._tasks[event["step"]], total=1, completed=1, description=str(event["step"]))
            else:
                self._say(f"{event['step']}: {event['seconds']:.1f} s")
        elif event["event"] == "progress" and self._progress is not None:
            task = self._tasks.setdefault(self._step, None)
            if task is None:
                task = self._tasks[self._step] = self._progress.add_task(self._step or event["what"], total=1, figures="")
            figures = "  ".join(
                f"{k} {v:.4g}" for k, v in event.items() if k not in ("event", "what", "done", "total") and isinstance(v, int | float)
            )
            self._progress.update(task, completed=event["done"], total=event["total"], figures=figures, description=f"{self._step}: {event['what']}")

    def _say(self, text: str) -> None:
        if self._quiet:
            return
        if self._progress is not None:
            self._progress.console.print(text)
        else:
            with contextlib.suppress(BrokenPipeError):
                print(text, file=sys.stderr, flush=True)


class _EventStream(io.TextIOBase):
    """Takes what a step's code prints and hands on its events; other text is dropped."""

    def __init__(self, on_event: Callable[[dict[str, Any]], None]) -> None:
        self._on_event, self._rest = on_event, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            event = parse(line)
            if event is not None:
                self._on_event(event)
        return len(text)


@contextlib.contextmanager
def events_to(on_event: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """Run step code in this process: its event lines become calls, and stdout stays for results."""
    with contextlib.redirect_stdout(_EventStream(on_event)):  # type: ignore[type-var]
        yield


def estimate_text(estimate: dict[str, Any] | None) -> str:
    """`0.912 (0.871-0.944)`, or why there is no figure."""
    if estimate is None:
        return "-"
    if estimate.get("value") is None:
        return f"insufficient evidence (n={estimate.get('n')})"
    if estimate.get("low") is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}-{estimate['high']:.3f})"


def spec_text(spec: DiseaseSpec) -> str:
    """A spec as `key = value` lines, one table a part."""
    lines: list[str] = []

    def walk(prefix: str, part: dict[str, Any]) -> None:
        plain = {k: v for k, v in part.items() if not isinstance(v, dict)}
        if plain:
            lines.extend(["", f"[{prefix}]"] if prefix else [])
            lines.extend(f"{key} = {value}" for key, value in plain.items() if value not in (None, [], {}))
        for key, value in part.items():
            if isinstance(value, dict):
                walk(f"{prefix}.{key}".lstrip("."), value)

    walk("", spec.model_dump(mode="json"))
    return "\n".join([*lines, "", *unseen_switches(spec)]).strip()


def unseen_switches(spec: DiseaseSpec) -> list[str]:
    """What the spec does for devices that training has not seen, also where it does nothing, and what it could do."""
    from components.core import harmonise

    fitting = [name for name in harmonise.names() if harmonise.fits(name, len(spec.input.shape) - 1, spec.input.shape[0])]
    lines = ["# for devices that training has not seen"]
    lines.append(f"# normalise.per_sample: {', '.join(spec.normalise.per_sample) or 'nothing'}; fitting: {', '.join(fitting) or 'none'}")
    for option, off in (("acquisition_jitter", "0"), ("device_balanced", "false")):
        chosen = [f"{name} {str(f.options[option]).lower()}" for name, f in spec.families.items() if f.options.get(option)]
        lines.append(f"# families.*.options.{option}: {', '.join([*chosen, 'others ' + off] if chosen else [off])}")
    return lines


def run_text(result: dict[str, Any]) -> None:
    """Print a finished run in a few lines, and where it was asked for what leaving each device out has shown."""
    lines = [
        f"run        {result['run']}" + ("   SYNTHETIC DATA" if result["synthetic"] else ""),
        f"verdict    {result['verdict']}" + (f": {'; '.join(result['reasons'])}" if result["reasons"] else ""),
        f"model      {result['model']}",
    ]
    lines += [f"{name:<10} {estimate_text(figure)}, n={figure['n']}" for name, figure in result["metrics"].items()]
    steps = [f"{name} {facts['seconds']:.1f} s" if facts["state"] == "ok" else f"{name} {facts['state']}" for name, facts in result["steps"].items()]
    lines += [
        f"steps      {', '.join(steps)}; {result['seconds']:.1f} s in all",
        f"report     {result['report']}",
        f"figures    {result['predictions']}",
    ]
    print("\n".join(lines))
    if "unseen_devices" in result:
        unseen_text(result["unseen_devices"])


def comparison_text(result: dict[str, Any]) -> None:
    """Print a comparison of families."""
    names = list(result["families"][0]["metrics"])
    rows = [
        [
            row["family"] + (" *" if row["chosen"] else ""), *(estimate_text(row["metrics"][n]) for n in names), f"{row['parameters']:,}",
            f"{row['seconds']:.1f} s", f"{row['peak_mb']:.0f} MB",
        ]
        for row in result["families"]
    ]  # fmt: skip
    title = f"{result['disease']}, {result['n']} test samples" + (", SYNTHETIC DATA" if result["synthetic"] else "")
    table(["family", *names, "parameters", "training", "memory"], rows, title=title)
    print("* validation's choice; the test split chooses nothing")
    for row in result["ensembles"]:
        gain = row["gain"]
        words = "no figure" if gain["value"] is None else f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})"
        print(f"{row['name']}: {row['measure']} {words} against {row['best_member']}: {row['verdict']}")
    print(f"report     {result['report']}")


def unseen_text(result: dict[str, Any]) -> None:
    """Print what leaving each device out has shown."""
    if result["none_left_out"]:
        print(f"left out   no device: {result['none_left_out']}")
        return
    rows = [[r["name"], str(r["n"]), estimate_text(r["unseen"]), "-" if r["seen"] is None else f"{r['seen']:.3f}"] for r in result["devices"]]
    title = result["disease"] + (", SYNTHETIC DATA" if result["synthetic"] else "")
    table(["device left out", "samples", "auc, unseen", "auc, devices it knows"], rows, title=title)
    print("gap        " + ("no figure" if result["gap"] is None else f"{result['gap']:+.3f}, mean known {result['seen']:.3f}"))
    print(f"report     {result['report']}")


def drift_text(found: dict[str, Any], report: Path) -> str:
    """A drift finding in a few lines."""
    lines = [f"unseen     {', '.join(found['unseen']) or 'none'}", f"silent     {', '.join(found['silent']) or 'none'}"]
    lines += [f"alarm      {alarm if isinstance(alarm, str) else alarm.get('text', alarm)}" for alarm in found["alarms"]] or ["alarm      none"]
    return "\n".join([*lines, f"report     {report}"])


def monitor_text(found: dict[str, Any], folder: Path) -> str:
    """A run of the monitor in a few lines."""
    left = ", ".join(
        f"{found[name]} {name.replace('_', ' ')}" for name in ("late", "duplicates", "skewed", "no_time", "other_version") if found[name]
    )
    lines = [f"events     {found['events']}" + (f" ({left}, left out)" if left else "")]
    if found["lost"] or found["damaged"]:
        lines.append(f"log        {found['lost']} records lost, {found['damaged']} damaged")
    if found["verdicts"]:
        lines.append(f"labels     {found['verdicts']} new from the reading page")
    if found["verdicts_refused"]:
        lines.append(f"labels     {found['verdicts_refused']} from the reading page refused, kept as *.refused in {folder / 'inbox'}")
    if found["strange_names"]:
        lines.append(f"names      {found['strange_names']} acquisition parameters that nobody knows, left out")
    lines.append(f"window     the next one begins {found['next_window']}" if found["next_window"] else "window     none is over yet")
    for alarm in found["open_alarms"]:
        lines.append(f"alarm      {alarm['kind'].replace('_', ' ')}, {alarm['label']}: {alarm['evidence']}, since {alarm['since'][:10]}")
        lines.append(f"           {folder / alarm['report']}")
    if found["not_judged"]:
        lines.append(f"verdict    {found['not_judged']}")
    elif not found["open_alarms"]:
        lines.append("alarm      none")
    return "\n".join([*lines, f"state      {folder}"])


def dashboard_text(facts: dict[str, Any]) -> str:
    """What `dxflow dashboard --once` brought up to date."""
    lines = [f"{len(facts['diseases'])} diseases, {facts['open_alarms']} open alarms"]
    lines += [f"{disease} cannot be read: {why}" for disease, why in facts["unreadable"].items()]
    return "\n".join([*lines, f"alarms: {facts['alarms']}", f"metrics: {facts['metrics']}", f"Evidently workspace: {facts['workspace']}"])
