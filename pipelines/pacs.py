"""`dxflow pacs`: models and an archive put together, and the list of what got no answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.errors import SpecError
from components.core.home import home
from components.core.inference_log import InferenceLog
from components.core.pseudonym import load_pseudonymiser
from pipelines import catalog
from serving.journal import Journal
from serving.pacs.dicomweb import DicomWeb
from serving.pacs.ledger import DEAD, Ledger, alone
from serving.pacs.loop import Loop
from serving.pacs.run import measured, printed, run, station
from serving.predictor import Predictor


@dataclass(frozen=True)
class Options:
    """As on the command line."""

    poll_s: float
    stable_s: float
    days: int | None
    once: bool
    ca: Path | None
    detector: Path | None
    allow_synthetic: bool
    log: Path
    ledger: Path
    metrics_port: int | None


def default_ledger() -> Path:
    return home() / "pacs" / "ledger.db"


def watch(url: str, models: Sequence[str], options: Options) -> None:
    """Work until a signal, or with `once` until nothing waits.

    Raises:
        SpecError: An address or a model that does not fit. GateError: A synthetic model without leave.
        ServiceError: Another loop works with the ledger; or, with `once`, the archive is away.
    """
    from pipelines.models import fetch
    from serving.nodules import opened

    web = DicomWeb(url, ca=options.ca)
    try:
        with alone(options.ledger), Ledger(options.ledger) as ledger:
            key, _ = load_pseudonymiser()
            predictors = [opened(fetch(m, allow_synthetic=options.allow_synthetic), allow_synthetic=options.allow_synthetic) for m in models]
            diseases = [p.package.disease for p in predictors]
            if twice := sorted({name for name in diseases if diseases.count(name) > 1}):
                raise SpecError("two models of one disease", where="MODEL", got=", ".join(twice), allowed="one each")
            stations = [
                station(p, rules_of(p), key, own_detector=options.detector, allow_synthetic=options.allow_synthetic) for p in predictors
            ]  # fmt: skip
            with InferenceLog(options.log) as log, measured(options.ledger, options.metrics_port):
                journal = Journal(log, predictors)
                loop = Loop(web, stations, ledger, journal, key, stable_s=options.stable_s, days=options.days, tell=printed)
                run(loop, poll_s=options.poll_s, once=options.once, tell=printed)
    finally:
        web.close()


def rules_of(model: Predictor) -> Any:
    """The package's own rules; of a package that was made before there were any, the catalogue's of its disease."""
    if model.spec.pacs is not None or model.spec.name not in catalog.names():
        return model.spec.pacs
    return catalog.load(model.spec.name).pacs


def dead(ledger: Path, url: str | None, ca: Path | None) -> list[dict[str, Any]]:
    """What got no answer, the newest at the end. With the archive's address each study is named as the archive does."""
    with Ledger(ledger) as opened:
        entries = opened.all(DEAD)
    names: dict[str, str] = {}
    if url is not None and entries:
        key, web = load_pseudonymiser()[0], DicomWeb(url, ca=ca)
        try:
            names = {key.id("study", listed.uid): listed.uid for listed in web.studies(None)}
        finally:
            web.close()
    return [
        {"study": names.get(e.study, e.study), "model": e.model, "state": e.state, "attempts": e.attempts, "reasons": list(e.reasons)}
        for e in entries
    ]  # fmt: skip


def retry(ledger: Path) -> int:
    """Put all of them back in the line. Returns how many."""
    with Ledger(ledger) as opened:
        return opened.retry()
