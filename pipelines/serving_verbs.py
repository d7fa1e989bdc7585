"""The verbs of `dxflow` that serve models and ask them: serve, collect, predict, find."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from components.core.home import home

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON value on the last line, for scripts.")
SYNTHETIC = click.option("--allow-synthetic", is_flag=True, help="Load models that were trained on synthetic data.")


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--grpc-port", type=click.IntRange(1, 65535), help="Also protocol v2 over gRPC, on this port. Default: no gRPC.")
@click.option("--log", type=click.Path(path_type=Path), help="Inference log. Default: DXFLOW_HOME/inference-log.")
@click.option("--queue", default=32, show_default=True, help="Requests that may wait; one more is told 429.")
@click.option("--processes", default=1, show_default=True, help="Of the server behind the port; each holds the models and has a queue of its own.")
@click.option("--deadline", "deadline_s", default=60.0, show_default=True, help="Seconds until a request's turn must have come; else 504.")
@click.option("--poll", "poll_s", default=30.0, show_default=True, help="Seconds between looks whether a model was replaced; 0: never.")
@click.option("--drain", "drain_s", default=0.0, show_default=True, help="Seconds that it still answers, not ready, after SIGTERM.")
@click.option("--grace", "grace_s", default=10.0, show_default=True, help="Then seconds for requests in progress to finish.")
@click.option("--admin", is_flag=True, help="Let clients have models loaded anew (POST /v2/repository/models/MODEL/load).")
@click.option("--engine", type=click.Choice(["auto", "onnxruntime", "openvino", "torch"]), default="auto", show_default=True)
@click.option(
    "--precision", type=click.Choice(["auto", "f32", "bf16", "int8"]), default="auto", show_default=True, help="As registration accepted it."
)
@click.option("--tokens", type=click.Path(path_type=Path), help="Who may ask: file of ROLE NAME SHA256 lines, see dxflow token.")
@click.option("--oidc-issuer", help="Who may ask: signed tokens of this OpenID provider.")
@click.option("--oidc-audience", default="dxflow", show_default=True)
@click.option("--oidc-jwks", help="Address of its keys. Default: as its discovery document says.")
@click.option("--oidc-roles", default="roles", show_default=True, help="Claim with reader, operator, admin; dots go inside.")
@click.option("--tls-cert", type=click.Path(path_type=Path), help="PEM. With --tls-key the server speaks TLS.")
@click.option("--tls-key", type=click.Path(path_type=Path))
@click.option("--tls-client-ca", type=click.Path(path_type=Path), help="Clients must show a certificate of this authority.")
@click.option("--reading", is_flag=True, help="The reading page at /read. It keeps the pixels of what is asked in DXFLOW_HOME/reading.")
@click.option(
    "--audit-heads", type=click.Path(path_type=Path), help="Where the audit log's signed heads go: another volume. Default: DXFLOW_HOME/audit-heads."
)
@SYNTHETIC
def serve(
    models: tuple[str, ...], log: Path | None, allow_synthetic: bool, oidc_issuer: str | None, oidc_audience: str, oidc_jwks: str | None,
    oidc_roles: str, reading: bool, audit_heads: Path | None, **given: Any,
) -> None:  # fmt: skip
    """Serve registered models with KServe. MODEL is a disease, name@alias, name:version, a package folder or its URI."""
    from components.core.step import die_with_parent
    from pipelines.models import source
    from serving.access.policy import Oidc
    from serving.options import Options
    from serving.server import serve as work

    if "DXFLOW_RUN_PID" in os.environ:
        die_with_parent()
    options = Options(
        log=log or home() / "inference-log", allow_synthetic=allow_synthetic, reading=home() / "reading" if reading else None,
        audit=home() / "audit", audit_heads=audit_heads or home() / "audit-heads", inbox=home() / "monitor",
        oidc=Oidc(oidc_issuer, oidc_audience, oidc_jwks, oidc_roles) if oidc_issuer else None, **given,
    )  # fmt: skip
    work([source(model, allow_synthetic=allow_synthetic) for model in models], options)


@click.command()
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--port", type=click.IntRange(1, 65535), default=8081, show_default=True)
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--log", type=click.Path(path_type=Path), help="Inference log. Default: DXFLOW_HOME/inference-log.")
@SYNTHETIC
def collect(models: tuple[str, ...], port: int, host: str, log: Path | None, allow_synthetic: bool) -> None:
    """Collect the CloudEvents of KServe's inference logger into the inference log. MODEL as for serve: the services whose events are taken."""
    from pipelines.models import fetch
    from serving.collector import collect as work

    packages = [fetch(model, allow_synthetic=allow_synthetic) for model in models]
    work(packages, host=host, port=port, allow_synthetic=allow_synthetic, log=log or home() / "inference-log")


@click.command()
@click.argument("file")
@click.option("--model", required=True, help="The model's name at the server, e.g. lung-nodule.")
@click.option("--url", default="http://127.0.0.1:8080", show_default=True)
@click.option("--row", type=float, help="Point of interest, in pixels from the top.")
@click.option("--column", type=float, help="Point of interest, in pixels from the left.")
@click.option("--window", type=click.IntRange(0), help="One window of a recording. Default: all.")
@click.option("--mpp", type=float, help="Microns of a pixel, for a slide that does not say it.")
@click.option("--device", help="What the hospital calls the device, for files that do not name theirs. The server hashes it.")
@click.option("--disease", help="Of a folder: as for dxflow run, where it is one of your own (path/x.toml). Default: as the model is called.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Table with a row for each answer: .csv, .parquet or .jsonl.")
@click.option("--timeout", "timeout_s", type=float, default=30.0, show_default=True)
@AS_JSON
def predict(
    file: str, model: str, url: str, row: float | None, column: float | None, window: int | None, mpp: float | None, device: str | None,
    disease: str | None, out: Path | None, timeout_s: float, as_json: bool,
) -> None:  # fmt: skip
    """Ask a running server about one file (DICOM, JPEG, PNG, TIFF, BMP, PGM, PPM, WebP, NIfTI, CSV), about one that it fetches itself
    (s3://bucket/key, a DICOMweb address), or about every sample of a folder in the disease's own format."""
    from pipelines import answer_rows
    from pipelines.answer_text import answer_text, replay_text
    from serving.client import predict as work

    if out is not None:
        answer_rows.checked(out)
    if Path(file).is_dir():
        from pipelines.replay import replay

        found = replay(url, model, Path(file), timeout_s, disease=disease, device=device)
        whole, rows, text = found, found["rows"], lambda: replay_text(found)
    else:
        answers = work(url, model, file, row, column, timeout_s, window, mpp=mpp, device=device)
        whole, text = answers[0] if len(answers) == 1 else answers, lambda: answer_text(answers)
        rows = [answer_rows.row(answer, file=file) for answer in answers]
    if out is not None:  # before anything else is made of them
        answer_rows.write(out, rows)
    click.echo(json.dumps(whole) if as_json else text())
    if out is not None and not as_json:
        click.echo(f"{'answers':<10} {out}, {len(rows)} rows")


@click.command()
@click.option("--model", required=True, help="A disease whose model looks at CT patches, name@alias, name:version, a package folder or its URI.")
@click.option("--study", type=click.Path(path_type=Path), required=True, help="Folder with one CT series as DICOM files.")
@click.option("--out", type=click.Path(path_type=Path), help="New folder for findings.json and the outlines as NIfTI.")
@click.option(
    "--detector", type=click.Path(path_type=Path), help="A detector that python -m pipelines.detector fitted. Default: the one from the phantom."
)
@SYNTHETIC
@AS_JSON
def find(model: str, study: Path, out: Path | None, detector: Path | None, allow_synthetic: bool, as_json: bool) -> None:
    """Find, outline and diagnose the nodules of a whole CT study."""
    from pipelines.find import run as work
    from pipelines.find import show

    result = work(model, study, out=out, own_detector=detector, allow_synthetic=allow_synthetic)
    if as_json:
        click.echo(json.dumps(result))
    else:
        show(result, out)
