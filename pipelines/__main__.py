"""The `dxflow` command."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from components.core.disk_errors import of_disk
from components.core.errors import DxflowError, SpecError
from components.core.home import home
from pipelines import access_verbs, serving_verbs
from pipelines.pacs_command import pacs
from pipelines.quarantine import quarantine

DISEASE = click.argument("disease")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON value on the last line, for scripts.")
SYNTHETIC = click.option("--allow-synthetic", is_flag=True, help="Load models that were trained on synthetic data.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="dxflow")
def cli() -> None:
    """Disease diagnosis with deep learning, from the study to the monitored endpoint.

    Everything a command keeps lies in DXFLOW_HOME (default: .dxflow in this folder). Exit codes: 0 done, 1 a defect, 2 you can fix it.
    """


for verb in (access_verbs.token, access_verbs.audit, serving_verbs.serve, serving_verbs.collect, serving_verbs.predict, serving_verbs.find):
    cli.add_command(verb)
cli.add_command(quarantine)


@cli.command()
@AS_JSON
def diseases(as_json: bool) -> None:
    """List the diseases of the catalogue."""
    from pipelines import catalog

    rows = [catalog.summary(catalog.load(name)) for name in catalog.names()]
    if as_json:
        click.echo(json.dumps(rows))
        return
    from pipelines.terminal import table

    lines = []
    for r in rows:
        facts = [r["name"], r["survey_row"] or "-", r["title"], r["format"], ", ".join(r["families"])]
        for n, m in enumerate(r["measured"] or [None]):
            kind = "-" if m is None else "synthetic" if m["synthetic"] else "real"
            lines.append([*(facts if n == 0 else [""] * 5), kind, "-" if m is None else f"{m['metric']} {m['family']} {catalog.figure(m)}"])
    table(["disease", "row", "what it answers", "data format", "families", "data", "measured"], lines)


@cli.command()
@DISEASE
@AS_JSON
def show(disease: str, as_json: bool) -> None:
    """Show one disease's spec, with every default filled in."""
    from pipelines import catalog
    from pipelines.terminal import spec_text

    spec = catalog.load(disease)
    click.echo(spec.to_json() if as_json else spec_text(spec))


@cli.command()
@DISEASE
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; must not exist yet.")
@click.option("--patients", type=click.IntRange(1, 100_000), help="Default: [phantom] of the spec.")
@click.option("--seed", type=int, help="Default: [phantom] of the spec.")
@click.option("--unseen", is_flag=True, help="Write studies of the scanner that the collection never contains.")
@AS_JSON
def phantom(disease: str, out: Path, patients: int | None, seed: int | None, unseen: bool, as_json: bool) -> None:
    """Write the synthetic stand-in of a disease's data, in its real format."""
    from pipelines import catalog
    from pipelines.phantom import write
    from pipelines.terminal import Bars

    with Bars(quiet=as_json) as bars:
        facts = write(catalog.load(disease), out, patients=patients, seed=seed, unseen=unseen, on_event=bars.event)
    click.echo(json.dumps(facts) if as_json else f"{facts['counts']['patients']} synthetic patients, {facts['counts']['files']} files in {out}")


@cli.command()
@DISEASE
@click.option("--source", required=True, help="A folder, a file, s3://bucket/prefix, or package:folder/file.")
@click.option("--family", help="Default: default_family of the spec.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--no-cache", is_flag=True, help="Run every step, whatever was run before.")
@click.option("--runner", type=click.Choice(["subprocess", "docker"]), default="subprocess", show_default=True)
@click.option("--images", default="", help="Prefix of the step images for --runner docker, e.g. registry.example/team/.")
@click.option("--unseen", is_flag=True, help="Then leave each device out of a training of its own, as dxflow unseen does.")
@AS_JSON
def run(disease: str, source: str, family: str | None, seed: int, no_cache: bool, runner: str, images: str, unseen: bool, as_json: bool) -> None:
    """Run a disease's pipeline: ingest, validate, train, evaluate, register."""
    from pipelines import catalog
    from pipelines.run import Options
    from pipelines.run import run as work
    from pipelines.terminal import Bars, run_text

    with Bars(quiet=as_json) as bars:
        result = work(catalog.load(disease), Options(source, family, seed, not no_cache, runner, images), bars.event, unseen=unseen)
    if as_json:
        click.echo(json.dumps(result))
    else:
        run_text(result)


@cli.command()
@DISEASE
@click.option("--source", required=True, help="A folder, a file, s3://bucket/prefix, or package:folder/file.")
@click.option("--families", help="Some of the disease's families, with commas. Default: all.")
@click.option("--epochs", type=click.IntRange(1, 10_000), help="Passes over the training samples for every family. Default: the default family's.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--no-cache", is_flag=True, help="Run every step, whatever was run before.")
@click.option("--runner", type=click.Choice(["subprocess", "docker"]), default="subprocess", show_default=True)
@click.option("--images", default="", help="Prefix of the step images for --runner docker.")
@AS_JSON
def compare(
    disease: str, source: str, families: str | None, epochs: int | None, seed: int, no_cache: bool, runner: str, images: str, as_json: bool
) -> None:
    """Train all families of a disease under one budget: one table, one plot, shared errors, what an ensemble gains."""
    from pipelines import catalog
    from pipelines.compare import compare as work
    from pipelines.run import Options
    from pipelines.terminal import Bars, comparison_text

    named = tuple(name.strip() for name in families.split(",") if name.strip()) if families else None
    with Bars(quiet=as_json) as bars:
        result = work(
            catalog.load(disease), Options(source, None, seed, not no_cache, runner, images), families=named, epochs=epochs, on_event=bars.event
        )
    if as_json:
        click.echo(json.dumps(result))
    else:
        comparison_text(result)


@cli.command()
@DISEASE
@click.option("--source", required=True, help="A folder, a file, s3://bucket/prefix, or package:folder/file.")
@click.option("--family", help="One of the disease's model families.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--no-cache", is_flag=True, help="Run every step, whatever was run before.")
@click.option("--runner", type=click.Choice(["subprocess", "docker"]), default="subprocess", show_default=True)
@click.option("--images", default="", help="Prefix of the step images for --runner docker.")
@AS_JSON
def unseen(disease: str, source: str, family: str | None, seed: int, no_cache: bool, runner: str, images: str, as_json: bool) -> None:
    """Leave each device out of a training in turn: what a device costs that the model has not seen. Three devices or more."""
    from pipelines import catalog
    from pipelines.run import Options
    from pipelines.terminal import Bars, unseen_text
    from pipelines.unseen import unseen as work

    with Bars(quiet=as_json) as bars:
        result = work(catalog.load(disease), Options(source, family, seed, not no_cache, runner, images), bars.event)
    if as_json:
        click.echo(json.dumps(result))
    else:
        unseen_text(result)


@cli.command("compile")
@DISEASE
@click.option("--out", type=click.Path(path_type=Path), help="Default: <disease>.yaml in this folder.")
@click.option("--images", default="", help="Prefix of the step images, e.g. registry.example/team/.")
@click.option("--tag", help="Tag of the step images. Default: version and source digest.")
@click.option("--monitor", "monitoring", is_flag=True, help="The monitor's pipeline, for a recurring run.")
@click.option("--unseen", is_flag=True, help="With each device left out, behind the ordinary steps.")
def compile_(disease: str, out: Path | None, images: str, tag: str | None, monitoring: bool, unseen: bool) -> None:
    """Write the pipeline's IR: the same file runs here and on Kubeflow."""
    from pipelines import catalog
    from pipelines.assemble import compile_ir
    from pipelines.schedule import compile_monitor

    spec = catalog.load(disease)
    if monitoring and unseen:
        raise SpecError("two pipelines asked for", where="dxflow compile", got="--monitor --unseen", allowed="one of them")
    if monitoring:
        click.echo(compile_monitor(spec, out or Path(f"monitor-{disease}.yaml"), prefix=images, tag=tag))
    else:
        click.echo(compile_ir(spec, out or Path(f"{disease}.yaml"), graph="run-unseen" if unseen else "run", prefix=images, tag=tag))


@cli.command()
@click.argument("model")
@click.option("--log", type=click.Path(path_type=Path), help="Inference log. Default: DXFLOW_HOME/inference-log.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: DXFLOW_HOME/drift/<model>.")
@SYNTHETIC
@AS_JSON
def drift(model: str, log: Path | None, out: Path | None, allow_synthetic: bool, as_json: bool) -> None:
    """Compare what the server saw with the model's reference, device by device."""
    from components.monitor.step import drift as work
    from pipelines.models import fetch
    from pipelines.terminal import Bars, drift_text, events_to

    package = fetch(model, allow_synthetic=allow_synthetic)
    folder = out or home() / "drift" / model.replace("/", "-")
    with Bars(quiet=as_json) as bars, events_to(bars.event):
        found = work(package=package, log=log or home() / "inference-log", out=folder)
    click.echo(json.dumps({**found, "report": str(folder / "drift.html")}) if as_json else drift_text(found, folder / "drift.html"))


@cli.command()
@click.argument("model")
@click.option("--log", type=click.Path(path_type=Path), help="Inference log. Default: DXFLOW_HOME/inference-log.")
@click.option("--state", type=click.Path(path_type=Path), help="Default: DXFLOW_HOME/monitor.")
@click.option("--window", type=click.Choice(["hour", "day", "week"]), default="day", show_default=True, help="Length of a window.")
@click.option("--now", "at", metavar="TIME", help="ISO 8601 with a zone: judge as if it were then, to try things out. Default: the clock.")
@SYNTHETIC
@AS_JSON
def monitor(model: str, log: Path | None, state: Path | None, window: str, at: str | None, allow_synthetic: bool, as_json: bool) -> None:
    """Read on in the inference log and judge the windows that are over. Run it as often as you like."""
    from datetime import UTC, datetime, timedelta

    from components.monitor.watch import DAY_S, Schedule, watch
    from pipelines.models import fetch
    from pipelines.terminal import monitor_text

    now = datetime.now(UTC)
    if at is not None:
        try:
            now = datetime.fromisoformat(at)
        except ValueError:
            raise SpecError("not a time", where="--now", allowed="ISO 8601 with a zone, e.g. 2026-03-02T08:00:00Z") from None
        if now.tzinfo is None or now > datetime.now(UTC) + timedelta(days=370):
            raise SpecError("not a time to judge at", where="--now", allowed="with a zone, at most a year ahead")
    package = fetch(model, allow_synthetic=allow_synthetic)
    folder = state or home() / "monitor"
    schedule = Schedule({"hour": 3600, "day": DAY_S, "week": 7 * DAY_S}[window])
    found = watch(package=package, log=log or home() / "inference-log", state=folder, now=now, schedule=schedule)
    click.echo(json.dumps(found) if as_json else monitor_text(found, folder / found["disease"]))


@cli.command()
@click.argument("model")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--log", type=click.Path(path_type=Path), help="Inference log. Default: DXFLOW_HOME/inference-log.")
@click.option("--state", type=click.Path(path_type=Path), help="Default: DXFLOW_HOME/monitor.")
@SYNTHETIC
@AS_JSON
def labels(model: str, file: Path, log: Path | None, state: Path | None, allow_synthetic: bool, as_json: bool) -> None:
    """Take late labels: a CSV file with request_id (or sample, which then is it), label and at (when it was made)."""
    from datetime import UTC, datetime

    from components.monitor.labelled import take
    from pipelines.models import fetch

    package = fetch(model, allow_synthetic=allow_synthetic)
    taken = take(package=package, log=log or home() / "inference-log", state=state or home() / "monitor", file=file, now=datetime.now(UTC))
    counts = {name: taken.counts[name] for name in ("new", "corrected", "same", "refused")}
    click.echo(json.dumps(counts | {"reasons": dict(taken.reasons)}) if as_json else str(taken))


@cli.command()
@click.option("--state", type=click.Path(path_type=Path), help="The monitor's folder. Default: DXFLOW_HOME/monitor.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--url", help="Where people reach it; links of alarms begin with it. Default: DXFLOW_DASHBOARD_URL, else host and port.")
@click.option("--once", is_flag=True, help="Bring workspace, alarm page and metrics up to date, and do not serve.")
@AS_JSON
def dashboard(state: Path | None, port: int, host: str, url: str | None, once: bool, as_json: bool) -> None:
    """Show what the monitor found: alarms, one Evidently page per disease, /metrics for Prometheus."""
    folder, workspace = state or home() / "monitor", home() / "dashboard"
    if once:
        from components.monitor.dashboard import build
        from pipelines.terminal import dashboard_text

        built = build(folder, workspace, url=url)
        facts = {
            "diseases": [s.disease for s in built.states], "unreadable": {name: str(error) for name, error in built.unreadable.items()},
            "open_alarms": built.alarms, "workspace": str(workspace), "alarms": str(folder / "alarms.html"), "metrics": str(folder / "metrics.prom"),
        }  # fmt: skip
        click.echo(json.dumps(facts) if as_json else dashboard_text(facts))
        return
    from components.core.step import die_with_parent
    from components.monitor.dashboard_server import serve as work

    if "DXFLOW_RUN_PID" in os.environ:
        die_with_parent()
    say = (lambda page: click.echo(json.dumps({"url": page}))) if as_json else (lambda page: click.echo(f"dashboard at {page} (Ctrl-C ends it)"))
    work(folder, workspace, host=host, port=port, url=url, announce=say)


@cli.command()
@click.argument("patient", required=False)
@click.option("--patient-file", type=click.File("r"), help="Read the id from a file, or - for stdin: an argument shows in the list of processes.")
@click.option("--key", help="Instead of an id: the keyed hash that stands for the patient here.")
@click.option("--log", "logs", type=click.Path(path_type=Path), multiple=True, help="Inference logs. Default: DXFLOW_HOME/inference-log.")
@click.option("--state", type=click.Path(path_type=Path), help="The monitor's folder. Default: DXFLOW_HOME/monitor.")
@click.option("--audit-heads", type=click.Path(path_type=Path), help="Folder of the audit log's signed heads. Default: DXFLOW_HOME/audit-heads.")
@click.option("--dry-run", is_flag=True, help="Say what would go, change nothing.")
@AS_JSON
def erase(
    patient: str | None, patient_file: Any, key: str | None, logs: tuple[Path, ...], state: Path | None, audit_heads: Path | None, dry_run: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Erase one patient from logs, labels, run artifacts and registered packages. PATIENT is the id as in the hospital."""
    from pipelines.erase import erase as work
    from pipelines.erase import text

    if sum(given is not None for given in (patient, patient_file, key)) != 1:
        raise SpecError("who?", where="dxflow erase", allowed="one of PATIENT, --patient-file and --key")
    if patient_file is not None:
        try:
            patient = patient_file.read(4096).removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError:
            raise SpecError("not a patient's id", where="--patient-file", allowed="one line of UTF-8 text") from None
    logs = logs or (home() / "inference-log",)
    found = work(patient, key, logs=logs, state=state or home() / "monitor", dry=dry_run, heads=audit_heads)
    click.echo(json.dumps(found) if as_json else text(found))


@cli.command()
@click.option("--disease", help="Only this one.")
@AS_JSON
def runs(disease: str | None, as_json: bool) -> None:
    """List the runs, newest first."""
    from pipelines.run import records, runs_dir
    from pipelines.terminal import table

    found = [r for r in records() if disease in (None, r["disease"])]
    if as_json:
        click.echo(json.dumps(found))
        return
    table(
        ["run", "family", "state", "seconds", "what"],
        [[r["run"], r["family"], r["state"], f"{r['seconds']:.0f}", (r["error"] or {}).get("text", "")] for r in found],
    )
    click.echo(f"each run's folder lies in {runs_dir()}")


@cli.command()
@AS_JSON
def doctor(as_json: bool) -> None:
    """Check this machine: versions, cores, disk, GPU, store, registry."""
    from pipelines.doctor import findings
    from pipelines.terminal import table

    found = findings()
    if as_json:
        click.echo(json.dumps(found))
    else:
        table(["check", "state", "found"], [[f["check"], f["state"], f["found"]] for f in found])
    if any(f["state"] == "bad" for f in found):
        raise SystemExit(2)


@cli.command()
@click.option("--patients", type=click.IntRange(20), help="Default: [phantom] of the spec.")
@AS_JSON
def demo(patients: int | None, as_json: bool) -> None:
    """All of it on synthetic chest CT: phantom, pipeline, KServe endpoint, drift report. This is `make run`."""
    from pipelines.demo import demo as work

    work(patients=patients, as_json=as_json)


cli.add_command(pacs)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command; a user never sees a traceback unless DXFLOW_DEBUG is set."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, _interrupt)  # also where a shell started the command in the background, with the signal ignored
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code, text = 130, "stopped"
    except KeyboardInterrupt:
        code, text = 130, "stopped"
    except click.ClickException as error:
        code, text = 2, error.format_message()
    except DxflowError as error:
        code, text = (2 if type(error) is not DxflowError else 1), str(error)
    except click.exceptions.Exit as stop:
        raise SystemExit(stop.exit_code) from None
    except BrokenPipeError:
        os._exit(0)
    except Exception as error:
        known = of_disk(error)
        if known is None and isinstance(error, OSError):
            known = SpecError(error.strerror or type(error).__name__, where=str(error.filename) if error.filename else None)
        if known is None and os.environ.get("DXFLOW_DEBUG"):
            raise
        code, text = (2, str(known)) if known else (1, f"a defect of dxflow: {type(error).__name__} (DXFLOW_DEBUG=1 shows where)")
    else:
        return
    print(f"dxflow: {text}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
