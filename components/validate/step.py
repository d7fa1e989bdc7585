"""Is this dataset fit to learn from? Great Expectations runs the suite of the spec; the verdict stops the pipeline or lets it go on.

    pass           every check holds
    warn           only warnings do not
    fail           a critical check does not: the data are bad
    broken check   a check raised: nothing is known about the data, and somebody has to mend the check

Great Expectations calls the last two by one name, `success: false`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.core.atomic import atomic_dir
from components.core.dataset import Dataset
from components.core.errors import DataError, ServiceError
from components.core.spec import DiseaseSpec
from components.core.step import emit
from components.validate import page
from components.validate.checks import tables_read
from components.validate.suite import FINDING, Check, checks, schema_checks

PASS, WARN, FAIL, BROKEN = "pass", "warn", "fail", "broken check"


@dataclass(frozen=True)
class Outcome:
    """A check and what came of it; `status` is one of the four verdicts."""

    check: Check
    status: str
    seen: str
    figures: dict[str, float | int]

    def to_dict(self) -> dict[str, Any]:
        about = {name: getattr(self.check, name) for name in ("id", "section", "severity", "says", "why")}
        return about | {"status": self.status, "seen": self.seen, "figures": self.figures}


def validate(spec: DiseaseSpec, *, dataset: Path, out: Path) -> str:
    """Check a dataset and write `validation.json` and `validation.html`.

    Args:
        dataset: As written by ingest.
        out: Folder, replaced whole.

    Returns:
        `pass` or `warn`.

    Raises:
        DataError: The data failed, after the page was written; or there is no dataset to check.
        ServiceError: A check broke, after the page was written.
    """
    data = tables_read(dataset)
    if data.info["disease"] != spec.name:
        raise DataError("dataset of another disease", where=str(dataset), got=data.info["disease"], allowed=spec.name)
    outcomes = run(schema_checks(), spec, data)
    if all(o.status == PASS for o in outcomes):
        outcomes += run(checks(spec), spec, data)
    verdict = judge(outcomes)
    report = {
        "schema_version": 1,
        "verdict": verdict,
        "disease": spec.name,
        "title": spec.title,
        "spec_digest": spec.digest,
        "grouping": spec.split.grouping,
        "synthetic": bool(data.info["synthetic"]),
        "counts": data.info["counts"],
        "summary": dict(sorted(Counter(o.status for o in outcomes).items())),
        "checks": [o.to_dict() for o in outcomes],
    }
    with atomic_dir(out) as folder:
        (folder / "validation.json").write_text(json.dumps(report, indent=1, sort_keys=True), encoding="utf-8")
        (folder / "validation.html").write_text(page.render(report), encoding="utf-8")
    emit("validation", verdict=verdict, **{status.replace(" ", "_"): n for status, n in report["summary"].items()})
    stopped = [o for o in outcomes if o.status == verdict]
    if verdict == FAIL:
        raise DataError(f"validation failed: {_first(stopped)}", where=f"{spec.name}: validate")
    if verdict == BROKEN:
        raise ServiceError(f"broken check: {_first(stopped)}", where=f"{spec.name}: validate")
    return verdict


def judge(outcomes: list[Outcome]) -> str:
    """Bad data stop the pipeline whatever else is broken; a broken check stops it too, but says so."""
    found = {o.status for o in outcomes}
    return next((v for v in (FAIL, BROKEN, WARN) if v in found), PASS)


def run(suite: list[Check], spec: DiseaseSpec, data: Dataset) -> list[Outcome]:
    """Run checks with Great Expectations, in memory: no project folder, no network, no row values in the result."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = {"globally": False}  # type: ignore[assignment]
    asset = context.data_sources.add_pandas("dxflow").add_dataframe_asset("manifest")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": data.manifest})
    expectations = [_expectation(check, spec, data) for check in suite]
    result = batch.validate(
        gx.ExpectationSuite(spec.name, expectations=expectations), result_format={"result_format": "SUMMARY", "partial_unexpected_count": 0}
    )
    by_id = {(r.expectation_config.meta or {}).get("check"): r for r in result.results if r.expectation_config}  # GX returns them in another order
    return [_outcome(check, by_id.get(check.id)) for check in suite]


def _expectation(check: Check, spec: DiseaseSpec, data: Dataset) -> Any:
    import great_expectations.expectations as gxe

    options = dict(check.options)
    if check.kind == FINDING:
        from components.validate.expectation import ExpectFinding

        kind: Any = ExpectFinding
        options |= {"check": check.id, "path": str(data.path), "spec": spec.to_json()}
    else:
        kind = getattr(gxe, check.kind)
    return kind(**options, meta={"check": check.id}, severity=check.severity)


def _outcome(check: Check, result: Any) -> Outcome:
    if result is None:
        return Outcome(check, BROKEN, "the check gave no result", {})
    if error := raised(result.exception_info):
        return Outcome(check, BROKEN, f"the check raised {error}", {})
    status = PASS if result.success else FAIL if check.severity == "critical" else WARN
    seen, figures = _seen(check, result.result)
    return Outcome(check, status, seen, figures)


def raised(info: Any) -> str | None:
    """The class of the exception that a check raised, else None. GX nests it by metric, or does not; its text may hold values."""
    for one in [info, *(info.values() if isinstance(info, dict) else [])]:
        if isinstance(one, dict) and one.get("raised_exception"):
            lines = [line for line in str(one.get("exception_traceback") or "").splitlines() if line and not line.startswith((" ", "Traceback"))]
            kind = next((line.split(":", 1)[0] for line in lines if "Error" in line.split(":", 1)[0]), "an exception")
            return kind.rsplit(".", 1)[-1]
    return None


def _seen(check: Check, result: dict[str, Any]) -> tuple[str, dict[str, float | int]]:
    """What was found, in words and numbers; row values that GX may add are left behind."""
    if check.kind == FINDING:
        finding = result["observed_value"]
        return finding["seen"], finding["figures"]
    if check.kind == "ExpectTableColumnsToMatchOrderedList":
        columns = result.get("observed_value") or []
        wanted = check.options["column_list"]
        missing, extra = [c for c in wanted if c not in columns], len([c for c in columns if c not in wanted])
        text = f"{len(columns)} columns" + (f"; missing: {', '.join(missing)}" if missing else "") + (f"; {extra} unknown" if extra else "")
        return text, {"columns": len(columns), "missing": len(missing), "unknown": extra}
    if check.kind == "ExpectTableRowCountToBeBetween":
        return f"{result['observed_value']} rows", {"rows": int(result["observed_value"])}
    n, missing, wrong = (int(result.get(f"{k}_count") or 0) for k in ("element", "missing", "unexpected"))
    if check.kind == "ExpectColumnValuesToNotBeNull":
        return f"{wrong} of {n} missing", {"rows": n, "unexpected": wrong}
    return f"{wrong} of {n - missing} do not fit" + (f"; {missing} missing" if missing else ""), {"rows": n, "missing": missing, "unexpected": wrong}


def _first(outcomes: list[Outcome]) -> str:
    one = outcomes[0]
    more = f" (+{len(outcomes) - 1} more)" if len(outcomes) > 1 else ""
    if one.status == BROKEN:
        return f"'{one.check.says}': {one.seen}{more}"
    return f"'{one.check.says}' does not hold: {one.seen}{more}"
