"""What every containerised step does around its work: events, one-line failures, and dying with its parent.

Events are lines on standard output, `@dxflow {json}`: they cross a subprocess, a container and a pod log alike, and the
command turns them into progress bars, `run.json` and the one line of an error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from components.core.disk_errors import of_disk
from components.core.errors import KINDS, DxflowError

PREFIX = "@dxflow "
HEAVY = (
    "duckdb", "evidently", "feast", "great_expectations", "kserve", "matplotlib", "mlflow", "monai", "onnxruntime", "openvino", "pandas",
    "pyarrow", "pydicom", "scipy", "sklearn", "torch",
)  # fmt: skip
"""Libraries whose import costs a step a tenth of a second or more; each step reports which of them it loaded."""


def emit(event: str, **fields: object) -> None:
    """Print one event line. Fields are numbers, counts and names of steps or files: never patient data."""
    print(PREFIX + json.dumps({"event": event, **fields}, sort_keys=True), flush=True)


def parse(line: str) -> dict[str, object] | None:
    """The event in a log line, or None. Tolerates the indentation that log collectors put in front."""
    text = line.strip()
    at = text.find(PREFIX)
    if at < 0:
        return None
    try:
        event = json.loads(text[at + len(PREFIX) :])
    except json.JSONDecodeError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


def error_from(event: dict[str, object]) -> DxflowError:
    """The error of a step, rebuilt in the process that reads its events."""
    return KINDS.get(str(event.get("kind")), DxflowError)(str(event.get("text")))


class Progress:
    """Progress of one loop, at most five events a second so that a log stays readable."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done, self._last = what, total, 0, 0.0

    def advance(self, n: int = 1, **figures: float | int) -> None:
        """Count `n` more items done; `figures` (a loss, an AUC) are shown beside the bar."""
        self.done += n
        now = time.monotonic()
        if now - self._last >= 0.2 or self.done >= self.total:
            self._last = now
            emit("progress", what=self.what, done=self.done, total=self.total, **figures)


def die_with_parent(pid: int | None = None, *, poll_s: float = 0.2) -> None:
    """Exit as soon as the run that this process belongs to is gone.

    kill -9 of a parent sends nothing to its children; a step that ran on would write into a run that no longer exists. The run's
    process id comes in `DXFLOW_RUN_PID` (a shell stands between it and the step), else the direct parent is watched.

    Args:
        pid: Of another process to watch instead.
    """
    import psutil

    pid = pid or int(os.environ.get("DXFLOW_RUN_PID") or os.getppid())
    if pid <= 1 or pid == os.getpid():  # in a container the step is started by pid 0 or 1, which cannot be outlived
        return
    try:
        owner = psutil.Process(pid)
    except psutil.NoSuchProcess:
        os._exit(137)

    def watch() -> None:
        while owner.is_running() and owner.status() != psutil.STATUS_ZOMBIE:
            time.sleep(poll_s)
        os._exit(137)

    threading.Thread(target=_quietly(watch), name="die-with-parent", daemon=True).start()


def end_helpers() -> None:
    """End the servers that multiprocessing keeps beside this process (the fork server, the tracker of semaphores).

    Left to themselves they end some time after it does, and whoever looks at once finds a process that nobody asked for.
    """
    for module, name in (("forkserver", "_forkserver"), ("resource_tracker", "_resource_tracker")):
        server = getattr(sys.modules.get(f"multiprocessing.{module}"), name, None)
        stop = getattr(server, "_stop", None)
        if stop is not None:
            stop()


def _quietly(watch: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            watch()
        except Exception:  # the owner vanished between two calls of psutil
            os._exit(137)

    return run


@contextmanager
def step(name: str) -> Iterator[None]:
    """Run one step's body: announce it, time it, and turn any failure into one event and an exit code.

    Exit 2: the user can fix it (`DxflowError`). Exit 1: a defect; the frames are logged without the exception's message, which may
    hold a value from the data.
    """
    die_with_parent()
    # Libraries put header values into warnings ("Invalid value for VR UI: ..."), so none may reach the log.
    warnings.filterwarnings("ignore")
    started = time.monotonic()
    emit("step-start", step=name)
    try:
        yield
    except DxflowError as error:
        emit("step-error", step=name, **error.to_dict())
        raise SystemExit(2) from None
    except Exception as error:
        if (known := of_disk(error, where=f"step {name}")) is not None:
            emit("step-error", step=name, **known.to_dict())
            raise SystemExit(2) from None
        print("".join(traceback.format_tb(error.__traceback__)), flush=True)
        place = traceback.extract_tb(error.__traceback__)[-1]
        emit("step-error", step=name, kind="Defect", text=f"step {name}: {type(error).__name__} at {os.path.basename(place.filename)}:{place.lineno}")
        raise SystemExit(1) from None
    finally:
        end_helpers()
    emit("step-end", step=name, seconds=round(time.monotonic() - started, 3), imports=[library for library in HEAVY if library in sys.modules])
