"""`dxflow token` and `dxflow audit verify`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from components.core.errors import DataError
from components.core.home import home

AS_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON value on the last line, for scripts.")


@click.command()
@click.argument("name")
@click.option("--role", "roles", multiple=True, required=True, help="reader, operator or admin; more than once for several.")
@AS_JSON
def token(name: str, roles: tuple[str, ...], as_json: bool) -> None:
    """Make a token for NAME: the token for its owner, and the line for the server's file of tokens, which holds only its hash."""
    from serving.access.policy import new_token

    secret, line = new_token(name, list(roles))
    click.echo(json.dumps({"token": secret, "line": line}) if as_json else f"token, shown only now: {secret}\nline for --tokens: {line}")


@click.group()
def audit() -> None:
    """The server's audit log."""


@audit.command()
@click.option("--log", type=click.Path(path_type=Path), help="Default: DXFLOW_HOME/audit.")
@click.option("--heads", type=click.Path(path_type=Path), help="Folder of the signed heads. Default: DXFLOW_HOME/audit-heads.")
@click.option("--public-key", type=click.Path(path_type=Path), help="A copy of the heads' public.pem that you trust more than the one beside them.")
@AS_JSON
def verify(log: Path | None, heads: Path | None, public_key: Path | None, as_json: bool) -> None:
    """Find every line that was changed, cut, dropped or put in by somebody without the key, and what no disk took. Exit code 2 for either."""
    from serving.access.verify import verify as work

    found = work(log or home() / "audit", heads or home() / "audit-heads", public_key)
    if as_json:
        told = {"files": found.files, "lines": found.lines, "findings": found.findings, "torn": found.torn}
        click.echo(json.dumps(told | {"unsigned": found.unsigned, "lost": found.lost}))
    else:
        for path in found.torn:
            click.echo(f"{path}: its last line was cut off by a kill; nothing that was signed is missing")
        for path in found.unsigned:
            click.echo(f"{path}: unsigned tail, 1 line: left by a kill, or put there; nobody vouches for it")
        for line in found.findings[1:]:
            click.echo(line)
    if found.findings:
        raise DataError(f"the audit log is not what was written: {found.findings[0]}", got=f"{len(found.findings)} findings")
    if found.lost:
        raise DataError(
            f"the audit log is not whole: {found.lost} lines were lost, since the disk took none; the other {found.lines} are as they were written",
            where=str(log or home() / "audit"),
        )
    if not as_json:
        but = f", but {len(found.unsigned)} that no signature covers" if found.unsigned else ""
        click.echo(f"{found.lines} lines in {found.files} files: as they were written{but}")
