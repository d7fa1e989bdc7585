"""The evaluation as one page that opens without a network: figures, plots, facts, verdict and limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.core.gates import Gate, Judgement
from components.core.operating_point import Decision
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec
from components.evaluate import plots
from components.evaluate.figures import decided, probabilities, truth

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    "auc": "AUC",
    "macro_auc": "AUC, mean of classes",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "brier": "Brier score",
    "calibration_error": "Calibration error",
    "accuracy": "Accuracy",
    "qwk": "Weighted kappa",
}
GROUPS = {"none": "", "patient": "patients", "lesion": "lesions", "subject": "subjects", "slide": "slides"}
GATES = {"data": "Data", "separation": "Separation of splits", "size": "Size", "auc": "AUC", "calibration_error": "Calibration error"}


def render(
    spec: DiseaseSpec,
    figures: dict[str, Any],
    predictions: pd.DataFrame,
    decision: Decision,
    judgement: Judgement,
    *,
    synthetic: bool,
    facts: dict[str, Any],
) -> str:
    """The page as HTML.

    Args:
        facts: `dataset` (dataset.json), `quarantine` {reason: count}, `validation` (validation.json), `model` (model.json), `history`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    rows = predictions[(predictions["split"] == "test") & ~predictions["abstain"].astype(bool)]
    return environment.get_template("report.html.j2").render(
        spec=spec,
        figures=figures,
        judgement=judgement,
        synthetic=synthetic,
        model={"family": facts["model"].get("family", spec.default_family), "kind": facts["model"].get("kind", "")},
        grouping=GROUPS[spec.split.grouping],
        titles=TITLES,
        text=_text,
        gate_title=_gate_title,
        judged_any=lambda d: any(d[name]["value"] is not None for name in figures["metrics"]),
        interval_words=_interval_words(spec),
        plots=_plots(spec, figures, rows, decision, facts["history"]),
        forest=_forest(spec, figures),
        confusion=_confusion(spec, rows, decision),
        abstained=any(d["abstained"] for d in figures["devices"].values()),
        data_facts=_data_facts(spec, figures, facts),
        model_facts=_model_facts(figures, decision, facts),
        limits=limits(spec, figures, synthetic=synthetic),
    )


def limits(spec: DiseaseSpec, figures: dict[str, Any], *, synthetic: bool) -> list[str]:
    """What these figures do not say, one sentence a line."""
    lines = ["Decision support only: it assists and does not replace the physician, who looks at the images and decides."]
    if synthetic:
        lines.insert(0, "Trained and tested on synthetic data: nothing here holds for a patient.")
    lines.append(f"The truth it was measured against: {spec.target.source}.")
    if spec.split.grouping == "none":
        lines.append("The source names no patients: training and test may share some, so figures may be too good and intervals too narrow.")
    lines.append("One test split of the same source as the training data: other hospitals, scanners and case mixes are not covered.")
    shares = figures["counts"]["classes"]
    total = sum(shares.values())
    if total and spec.target.kind != "multilabel":
        words = ", ".join(f"{count / total:.0%} {name}" for name, count in shares.items())
        lines.append(
            f"Probabilities are calibrated for the case mix of the source (test split: {words}); where a class is rarer, they are too high for it."
        )
    unjudged = [d["name"] for d in figures["devices"].values() if d["auc"]["value"] is None]
    if unjudged:
        named = f"{', '.join(sorted(unjudged)[:6])}{' and others' if len(unjudged) > 6 else ''}"
        lines.append(f"No claim for {len(unjudged)} of {len(figures['devices'])} devices, too few samples: {named}.")
    lines.append(
        "A device that is not listed here has not been tested at all."
        if spec.normalise.missing_profile == "abstain"
        else "A device that is not listed here has not been tested; its images are treated as if they came from the training pool."
    )
    return lines


def _plots(
    spec: DiseaseSpec, figures: dict[str, Any], rows: pd.DataFrame, decision: Decision, history: Sequence[dict[str, float]]
) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    y, p = truth(rows, spec), probabilities(rows, spec)
    groups = None if spec.split.grouping == "none" else rows["group_id"].to_numpy(dtype=object)
    binary = spec.target.kind == "binary"
    shown = [spec.positive_index] if binary else range(len(spec.target.classes))
    curves = []
    for k in shown:
        labels = (y[:, k] > 0 if y.ndim == 2 else y == k).astype(int)
        if 0 < labels.sum() < len(labels):
            curves.append((spec.target.classes[k], labels, p[:, k], groups))
    if curves:
        operating = None
        if (
            binary
            and figures["metrics"].get("sensitivity", {}).get("value") is not None
            and figures["metrics"].get("specificity", {}).get("value") is not None
        ):
            operating = (1 - figures["metrics"]["specificity"]["value"], figures["metrics"]["sensitivity"]["value"])
        auc = figures["metrics"]["auc"]
        words = f"AUC {_text(auc)}"
        caption = "Band: 95 % of resamples at each false-positive rate. " if len(curves) == 1 else "Each class against the rest. "
        caption += f"Rule chosen on validation: {decision.rule}." if binary else ""
        found.append({"title": "ROC", "words": caption, "svg": plots.roc(curves, operating, words)})
    if len(rows) >= 50 and y.ndim == 1:
        hit = (y == spec.positive_index) if binary else (p.argmax(1) == y)
        top = p[:, spec.positive_index] if binary else p.max(1)
        words = "Probabilities were calibrated on validation. On the diagonal they come true as promised; whiskers are 95 % intervals."
        found.append({"title": "Reliability", "words": words if binary else f"Of the top class. {words}", "svg": plots.reliability(hit, top)})
    if binary and len(rows):
        k = spec.positive_index
        words = "Test samples by true class; right of the dashed line the decision is positive."
        found.append({"title": "Scores", "words": words, "svg": plots.histogram(spec.target.classes, y, p[:, k], k, decision.threshold)})
    if len(history) > 1 and all("train_loss" in e and "epoch" in e for e in history):
        found.append({"title": "Learning", "words": "The weights of the best epoch on validation were kept.", "svg": plots.learning(history)})
    return found


def _forest(spec: DiseaseSpec, figures: dict[str, Any]) -> str:
    devices = figures["devices"]
    if len(devices) < 2:
        return ""
    ordered = sorted(devices.values(), key=lambda d: (d["auc"]["value"] is None, -(d["auc"]["low"] or 0), d["name"]))
    return plots.forest([(f"{d['name']} (n={d['n']})", d["auc"]) for d in ordered], figures["metrics"]["auc"], spec.gates.device_auc_low)


def _confusion(spec: DiseaseSpec, rows: pd.DataFrame, decision: Decision) -> list[tuple[str, list[int]]]:
    if spec.target.kind == "multilabel" or not len(rows):
        return []
    y, decisions = truth(rows, spec), decided(rows, spec, decision)
    size = range(len(spec.target.classes))
    return [(spec.target.classes[k], [int(((y == k) & (decisions == j)).sum()) for j in size]) for k in size]


def _data_facts(spec: DiseaseSpec, figures: dict[str, Any], facts: dict[str, Any]) -> list[tuple[str, str]]:
    counts, provenance = facts["dataset"].get("counts", {}), facts["dataset"].get("provenance", {})
    groups = "" if spec.split.grouping == "none" else f" of {counts.get('groups')} {GROUPS[spec.split.grouping]}"
    known = set(figures["devices"]) != {UNKNOWN_DEVICE}
    lines = [
        ("origin", "synthetic (phantom)" if facts["dataset"].get("synthetic") else "real"),
        ("samples", f"{counts.get('samples')}{groups}"),
        ("devices", str(counts.get("devices")) if known else "not known"),
        ("train / val / test", f"{counts.get('train')} / {counts.get('val')} / {counts.get('test')}"),
        (
            "grouping",
            "none: the source's own split was kept"
            if spec.split.grouping == "none"
            else f"by {spec.split.grouping}, no {spec.split.grouping} in two splits",
        ),
        ("answered", _coverage(figures)),
    ]
    reasons = sorted(facts["quarantine"].items(), key=lambda pair: (-pair[1], pair[0]))
    total = sum(facts["quarantine"].values())
    lines.append(("quarantined files", f"{total}" + (": " + "; ".join(f"{reason} ({count})" for reason, count in reasons[:3]) if total else "")))
    noted = [str(c.get("says", c.get("id"))) for c in facts["validation"].get("checks", []) if c.get("status") == "warn"]
    lines.append(("data validation", str(facts["validation"].get("verdict", "not known")) + (f"; not held: {'; '.join(noted)}" if noted else "")))
    lines += [
        (name.replace("_", " "), str(provenance[name]))
        for name in sorted(provenance)
        if isinstance(provenance[name], str | int) and name in ("reader", "source_digest", "key_fingerprint")
    ]
    return lines


def _model_facts(figures: dict[str, Any], decision: Decision, facts: dict[str, Any]) -> list[tuple[str, str]]:
    model, history = facts["model"], facts["history"]
    lines = [("family", f"{model.get('family', '')} ({model.get('kind', '')})")]
    lines += [(title, f"{model[key]:,}") for key, title in (("n_parameters", "trained numbers"), ("seed", "seed")) if isinstance(model.get(key), int)]
    if history:
        best = model.get("best_epoch")
        lines.append(("epochs", f"{len(history)}" + (f", the weights of epoch {best} were kept" if best else "")))
    lines += [
        (title, str(model[key])[:12])
        for key, title in (("device", "trained on"), ("torch", "torch"), ("weights_sha256", "weights, SHA-256"))
        if model.get(key)
    ]
    lines.append(("operating point", decision.rule + (f": p at least {decision.threshold:.3f}" if decision.threshold is not None else "")))
    lines += [(f"{name} on validation", _text(e)) for name, e in figures["operating_point"].get("validation", {}).items()]
    temperature = ", ".join(f"{t:.3g}" for t in figures["calibration"]["temperature"])
    lines.append(("calibration", f"temperature {temperature}, fitted on {figures['calibration']['n']} validation samples"))
    lines += [(f"baseline {TITLES[name].lower()}", f"{value:.3f} (knowing only the class shares)") for name, value in figures["baseline"].items()]
    return lines


def _coverage(figures: dict[str, Any]) -> str:
    n, answered = figures["counts"]["test"], figures["counts"]["answered"]
    return f"{answered} of {n} test samples" + ("" if n == answered else f"; {n - answered} from devices without a profile get no decision")


def _interval_words(spec: DiseaseSpec) -> str:
    if spec.split.grouping == "none":
        return "Intervals treat samples as independent, since no patient is named."
    return f"Intervals come from resampling whole {spec.split.grouping}s wherever one has several samples."


def _gate_title(gate: Gate) -> str:
    return GATES.get(gate.name) or ("Device" if gate.name.startswith("device") else gate.name)


def _text(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return estimate.get("reason", "insufficient evidence")
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
