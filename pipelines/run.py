"""One pipeline run: its folder, its record, its process group.

A run lives in `home()/runs/<id>/`: `pipeline.yaml` (the IR), `request.json`, `log.txt`, `run.json` (the record, rewritten at every event), and
copies of what people look at (`report.html`, `validation.html`, `predictions.parquet`, `metrics.json`). The pipeline runs in a child of its
own session; whatever ends the run, no process of that session outlives it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.core.atomic import alive, remove_partials, write_text
from components.core.errors import DataError, DxflowError, ServiceError, SpecError
from components.core.home import home
from components.core.pseudonym import load_pseudonymiser
from components.core.secret import file_bytes, secret
from components.core.spec import DiseaseSpec
from components.core.step import error_from, parse
from pipelines import containers
from pipelines.sources import SERVICE_ENVIRONMENT, STEPS, Graph, deployment_digest, source_digest

KEPT = {"evaluation": ("report.html", "predictions.parquet", "metrics.json"), "validation": ("validation.html", "validation.json")}
KEPT_UNSEEN = {"unseen": ("unseen.html", "unseen.json")}


@dataclass
class Record:
    """`run.json`."""

    run: str
    disease: str
    source: str
    family: str
    seed: int
    runner: str
    started: str
    pid: int
    tmp: str
    state: str = "running"
    seconds: float = 0.0
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    error: dict[str, str] | None = None
    outputs: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Rewrite `run.json` atomically."""
        write_text(folder / "run.json", json.dumps(asdict(self), indent=1))


@dataclass(frozen=True)
class Options:
    """What `dxflow run` takes."""

    source: str
    family: str | None = None
    seed: int = 0
    cache: bool = True
    runner: str = "subprocess"
    images: str = ""


def runs_dir() -> Path:
    return home() / "runs"


def records() -> list[dict[str, Any]]:
    """Every run's record, newest first. A run whose process is gone without saying so is shown as killed."""
    found = []
    for path in sorted(runs_dir().glob("*/run.json"), reverse=True):
        with contextlib.suppress(json.JSONDecodeError, FileNotFoundError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if record["state"] == "running" and not alive(record["pid"]):
                record["state"] = "killed"
                shutil.rmtree(record["tmp"], ignore_errors=True)
                write_text(path, json.dumps(record, indent=1))
            found.append(record)
    return found


def run(
    spec: DiseaseSpec, options: Options, on_event: Callable[[dict[str, Any]], None] = lambda event: None, *, unseen: bool = False
) -> dict[str, Any]:
    """Run one disease's pipeline to its end and return the summary that `dxflow run --json` prints.

    Args:
        unseen: With the model registered, leave each device out of a training of its own.

    Raises:
        SpecError, DataError, GateError, ServiceError: What the failed step said, or what was wrong before it began.
    """
    family = options.family or spec.default_family
    if family not in spec.families:
        raise SpecError("no such family", where=f"{spec.name}: --family", got=f"'{family}'", allowed=", ".join(sorted(spec.families)))
    arguments = {"deployment": deployment_digest(), "spec": spec.to_json(), "family": family}
    kept, graph = (KEPT | KEPT_UNSEEN, "run-unseen") if unseen else (KEPT, "run")
    folder, record = execute(spec, options, arguments, family=family, kept=kept, graph=graph, on_event=on_event)
    return summary(folder, record)


def execute(
    spec: DiseaseSpec,
    options: Options,
    arguments: dict[str, Any],
    *,
    family: str,
    kept: dict[str, tuple[str, ...]],
    graph: Graph = "run",
    families: tuple[str, ...] = (),
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> tuple[Path, Record]:
    """Compile and run one of a disease's graphs to its end.

    Args:
        arguments: The pipeline's own; source, its digest, the key's fingerprint and the seed are added here.
        family: What the record shows.
        kept: {output: files of it that are copied into the run's folder}.
        families: Of a comparison.

    Returns:
        The run's folder and its record.
    """
    started = time.monotonic()
    source = located(options.source)
    for place in (source, str(home())):
        if "python3" in place:  # kfp's local runner rewrites that word in every argument
            raise DataError("the path must not contain 'python3'", where="--source" if place == source else "DXFLOW_HOME", got=place)
    if options.runner == "docker":
        containers.mountable(source)
        containers.check()
    digest = source_digest(options.source)
    pseudonymiser, made = load_pseudonymiser()
    if made:
        on_event(
            {"event": "warning", "text": f"made a pseudonym key at {home() / 'pseudonym.key'}: keep it, without it the same patient gets a new id"}
        )
    arguments = {"source": source, "source_digest": digest, "key_fingerprint": pseudonymiser.fingerprint, "seed": options.seed, **arguments}
    identity = hashlib.sha256(json.dumps([arguments, families], sort_keys=True).encode()).hexdigest()[:16]
    with _only_one(identity):
        for _ in records():  # marks runs that were killed
            pass
        (home() / "pipeline_root").mkdir(mode=0o700, parents=True, exist_ok=True)  # pixels of patients are in it; containers run as its owner
        remove_partials(home() / "pipeline_root")
        folder = _new_run_dir(spec.name)
        from pipelines.assemble import compile_ir

        compile_ir(spec, folder / "pipeline.yaml", graph=graph, families=families, prefix=options.images)
        request = {
            "runner": options.runner, "arguments": arguments, "pipeline_root": str(home() / "pipeline_root"), "cache": options.cache,
            "cache_root": str(home() / "cache"), "environment": _container_environment() if options.runner == "docker" else {},
        }  # fmt: skip
        write_text(folder / "request.json", json.dumps({**request, "environment": dict.fromkeys(request["environment"], "set")}, indent=1))
        record = Record(
            run=folder.name, disease=spec.name, source=source, family=family, seed=options.seed, runner=options.runner,
            started=datetime.now(UTC).isoformat(timespec="seconds"), pid=os.getpid(),
            tmp=tempfile.mkdtemp(prefix="dxflow-"),  # short: a socket's path may have 107 characters only
        )  # fmt: skip
        record.save(folder)
        try:
            error = _supervise(folder, request, record, on_event)
        except BaseException:
            record.state, record.seconds = "killed", round(time.monotonic() - started, 2)
            record.save(folder)
            raise
        record.seconds = round(time.monotonic() - started, 2)
        if error is not None:
            record.state, record.error = "failed", error.to_dict()
            record.save(folder)
            raise error
        record.outputs = json.loads((folder / "outputs.json").read_text(encoding="utf-8"))
        for name in STEPS if "package" in record.outputs else STEPS[:-1]:
            record.steps.setdefault(name, {"state": "cached", "seconds": 0.0})
        for artifact, names in kept.items():
            for name in names:
                shutil.copyfile(Path(record.outputs[artifact]) / name, folder / name)
        record.state = "succeeded"
        record.save(folder)
    return folder, record


def located(source: str) -> str:
    """A source as a pipeline argument: addresses stay, paths become absolute."""
    return source if "://" in source or source.startswith("package:") else os.path.abspath(source)


def summary(folder: Path, record: Record) -> dict[str, Any]:
    """The one object that scripts read; every figure can be recomputed from `predictions`."""
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    registration = json.loads((Path(record.outputs["package"]) / "registration.json").read_text(encoding="utf-8"))
    dataset = json.loads((Path(record.outputs["dataset"]) / "dataset.json").read_text(encoding="utf-8"))
    asked = folder / "unseen.json"
    found = {"report": str(folder / "unseen.html"), **json.loads(asked.read_text(encoding="utf-8"))} if asked.exists() else None
    return {
        "run": record.run, "disease": record.disease, "verdict": registration["verdict"], "reasons": registration["reasons"],
        "seconds": record.seconds, "synthetic": dataset["synthetic"], "model": f"{registration['name']}:{registration['version']}",
        "metrics": measured["metrics"], "devices": measured["devices"], "worst_device": measured.get("worst_device"),
        "steps": record.steps, "report": str(folder / "report.html"), "validation": str(folder / "validation.html"),
        "predictions": str(folder / "predictions.parquet"), "package": record.outputs["package"],
        **({} if found is None else {"unseen_devices": found}),
    }  # fmt: skip


def _supervise(folder: Path, request: dict[str, Any], record: Record, on_event: Callable[[dict[str, Any]], None]) -> DxflowError | None:
    """Start the child, follow its log, and leave none of its session behind. Returns the step's error, if one said so."""
    environment = {**os.environ, "TMPDIR": record.tmp, "DXFLOW_HOME": str(home()), "PYTHONWARNINGS": "ignore", "DO_NOT_TRACK": "1"}
    environment.update({f"DXFLOW_CONTAINER_{name}": value for name, value in request["environment"].items()})
    environment["DXFLOW_RUN_PID"] = str(os.getpid())  # not left to getppid(): it is 1 where this process dies before the child has asked
    environment["PYTHONUNBUFFERED"] = "1"  # events must come as they happen, not by the block
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads make a busy machine four times slower (docs/LOG.md)
    error: DxflowError | None = None
    child = subprocess.Popen(
        [sys.executable, "-m", "pipelines.execute", str(folder)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        with open(folder / "log.txt", "w", encoding="utf-8", buffering=1) as log:
            for line in child.stdout:
                log.write(line)
                event = parse(line)
                if event is None:
                    continue
                name = str(event.get("step", ""))
                if event["event"] == "step-start":
                    record.steps[name] = {"state": "running", "seconds": record.steps.get(name, {}).get("seconds", 0.0)}
                elif event["event"] == "step-end":
                    seconds = round(record.steps.get(name, {}).get("seconds", 0.0) + float(str(event["seconds"])), 3)  # a comparison trains often
                    record.steps[name] = {"state": "ok", "seconds": seconds, "imports": event["imports"]}
                elif event["event"] == "step-error":
                    record.steps[name] = {**record.steps.get(name, {"seconds": 0.0}), "state": "failed"}
                    error = error_from(event)
                if event["event"] != "progress":
                    record.save(folder)
                on_event(event)
        code = child.wait()
    finally:
        _sweep(child)
        if request["runner"] == "docker":
            containers.stop(folder.name)
        shutil.rmtree(record.tmp, ignore_errors=True)
        shutil.rmtree(folder / "workspace", ignore_errors=True)
    if code == 0 and error is None:
        return None
    if error is not None:
        return error
    running = next((name for name, facts in record.steps.items() if facts["state"] == "running"), None)
    where = f"step {running}" if running else "pipeline"
    return DxflowError("ended without a word (killed, or out of memory)", where=where, got=f"exit {code}; log: {folder / 'log.txt'}")


def _sweep(child: subprocess.Popen[str]) -> None:
    """End every process of the child's session: first politely, after two seconds for good."""
    for sign, patience_s in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, sign)
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            child.poll()
            try:
                os.killpg(child.pid, 0)
            except (ProcessLookupError, PermissionError):
                return
            time.sleep(0.02)


@contextlib.contextmanager
def _only_one(identity: str) -> Iterator[None]:
    """Two runs of the same input would write the same work folder: the second is refused. The lock goes with its process."""
    folder = home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{identity}.lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError("a run of the same input is under way", where="dxflow run", allowed="wait for it, or another --seed") from None
        yield


def _new_run_dir(disease: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    for n in range(100):
        folder = runs_dir() / f"{stamp}-{disease}{f'-{n}' if n else ''}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise ServiceError("cannot make a run folder", where=str(runs_dir()))


def _container_environment() -> dict[str, str]:
    """What a container needs: the addresses of services, the pseudonym key, and a home in the one folder that kfp mounts."""
    environment = {"DXFLOW_HOME": str(home() / "pipeline_root" / ".home"), "HOME": "/tmp", "MPLCONFIGDIR": "/tmp", "DO_NOT_TRACK": "1"}
    for name in SERVICE_ENVIRONMENT:
        value = os.environ.get(name, "")
        if value and (name.startswith("AWS_") or "://" in value):  # a local path means nothing inside a container
            environment[name] = value
    key = secret("DXFLOW_KEY")
    environment["DXFLOW_KEY"] = file_bytes(home() / "pseudonym.key", where="DXFLOW_HOME").decode() if key is None else key
    return environment
