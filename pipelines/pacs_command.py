"""The options of `dxflow pacs`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from components.core.errors import SpecError
from components.core.home import home


@click.command()
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option(
    "--url", help="The archive's DICOMweb address, e.g. https://pacs.example/dicom-web. Credentials: DXFLOW_PACS_USER and _PASSWORD, or _TOKEN."
)
@click.option("--poll-s", type=click.FloatRange(0.1, 86_400), default=30.0, show_default=True, help="Between two looks at the archive.")
@click.option("--stable-s", type=click.FloatRange(0, 86_400), default=60.0, show_default=True, help="A study is judged when unchanged so long.")
@click.option("--days", type=click.IntRange(0), default=7, show_default=True, help="Only studies dated so many days back or later; 0 for all.")
@click.option("--once", is_flag=True, help="End when nothing waits any more.")
@click.option("--ca", type=click.Path(path_type=Path), help="Certificates to trust, PEM. Default: the system's.")
@click.option("--detector", type=click.Path(path_type=Path), help="As for find.")
@click.option("--log", type=click.Path(path_type=Path), help="Inference log. Default: DXFLOW_HOME/inference-log.")
@click.option("--ledger", type=click.Path(path_type=Path), help="What became of each study. Default: DXFLOW_HOME/pacs/ledger.db.")
@click.option("--metrics-port", type=click.IntRange(1, 65535), help="Show Prometheus, on loopback, how many studies are in which state.")
@click.option("--failed", is_flag=True, help="List what got no answer, with reasons; with --url by the archive's study UIDs.")
@click.option("--retry", is_flag=True, help="Put what got no answer back in the line.")
@click.option("--allow-synthetic", is_flag=True, help="Load models that were trained on synthetic data.")
@click.option("--json", "as_json", is_flag=True, help="One JSON value on the last line, for scripts; with --failed or --retry.")
def pacs(models: tuple[str, ...], url: str | None, failed: bool, retry: bool, as_json: bool, **given: Any) -> None:
    """Watch a hospital's archive: judge new studies, store report and outlines into the same study. MODEL as for serve."""
    from pipelines import pacs as work
    from pipelines.terminal import table

    ledger = given["ledger"] or work.default_ledger()
    if failed or retry:
        done = work.retry(ledger) if retry else None
        rows = work.dead(ledger, url, given["ca"]) if failed else []
        if as_json:
            click.echo(json.dumps({"retried": done, "failed": rows}))
            return
        if done is not None:
            click.echo(f"{done} studies are judged again by the next pass")
        if failed and not rows:
            click.echo("no study failed or was declined")
        elif failed:
            table(["study", "model", "state", "attempts", "reasons"], [[*list(r.values())[:4], "; ".join(r["reasons"])] for r in rows])
        return
    if not models or url is None:
        raise SpecError("what to watch, and for whom?", where="dxflow pacs", allowed="MODEL... and --url, or --failed, or --retry")
    log = given["log"] or home() / "inference-log"
    work.watch(url, models, work.Options(**given | {"log": log, "ledger": ledger, "days": given["days"] or None}))
