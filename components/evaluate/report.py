"""The evaluation as one page that opens without a network: figures, plots, facts, verdict and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.core import outside as something_else
from components.core.dataset import SPLITS
from components.core.gates import LEAKS, Gate, Judgement
from components.core.operating_point import Decision
from components.core.pseudonym import UNKNOWN_DEVICE
from components.core.spec import DiseaseSpec
from components.evaluate import covariates, plots
from components.evaluate.figures import decided, probabilities, truth

if TYPE_CHECKING:
    import pandas as pd

TITLES = {
    "auc": "AUC",
    "macro_auc": "AUC, mean of classes",
    "pairwise_auc": "AUC, mean of pairs",
    "froc": "FROC score",
    "dice": "Dice",
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
        estimate=_two_lines,
        tested=_tested(spec, figures),
        about=_about_positive(spec),
        folds=_folds(spec, figures, facts["model"]),
        external=_external(spec, figures),
        added=covariates.shown(spec, figures),
        leakage=figures.get("leakage", []),
        leaks=any(one["id"] in LEAKS for one in figures.get("leakage", [])),
        two=spec.target.kind == "binary",
        gate_title=_gate_title,
        judged_any=lambda d: any(d[name]["value"] is not None for name in figures["metrics"]),
        interval_words=_interval_words(spec),
        plots=[*_plots(spec, figures, rows, decision, facts["history"]), *facts.get("plots", [])],
        forest=_forest(spec, figures),
        confusion=_confusion(spec, rows, decision),
        abstained=any(d["abstained"] for d in figures["devices"].values()),
        data_facts=_data_facts(spec, figures, facts),
        model_facts=_model_facts(figures, decision, facts),
        limits=[*limits(spec, figures, synthetic=synthetic), _of_something_else(spec, facts["dataset"].get("counts", {}))],
    )


def limits(spec: DiseaseSpec, figures: dict[str, Any], *, synthetic: bool) -> list[str]:
    """What these figures do not say, one sentence a line."""
    lines = ["Decision support only: it assists and does not replace the physician, who looks at the images and decides."]
    if synthetic:
        lines.insert(0, "Trained and tested on synthetic data: nothing here holds for a patient.")
    lines.append(f"The truth it was measured against: {spec.target.source}.")
    if spec.split.grouping == "none":
        lines.append("The source names no patients: training and test may share some, so figures may be too good and intervals too narrow.")
    if "folds" in figures:
        lines.append(
            f"Each figure pools the answers of {len(figures['folds'])} models, each for the {spec.split.grouping}s that it never saw. The model that "
            "is registered is one more, trained on all of them: its own figures are expected to be like these, and were not measured."
        )
        if spec.normalise.method == "device":
            lines.append("A device's profile is measured on all its samples, those of the test fold among them: intensities, never labels.")
    outside = [name for name, e in figures.get("external", {}).items() if not e["missing"]]
    source = "Cross-validation within one source" if "folds" in figures else "One test split of the same source as the training data"
    known = f"; beside them only the external sets {', '.join(outside)}" if outside else ""
    lines.append(f"{source}: other hospitals, scanners and case mixes are not covered{known}.")
    if missing := [name for name, e in figures.get("external", {}).items() if e["missing"]]:
        lines.append(f"The source did not hold the external set{'s' if len(missing) > 1 else ''} {', '.join(missing)}: nothing is known about it.")
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


def _of_something_else(spec: DiseaseSpec, counts: Mapping[str, Any]) -> str:
    """What the server will do with an image of something else. Samples of external sets teach it nothing."""
    own = sum(int(counts.get(split) or 0) for split in SPLITS)
    return something_else.sentence(something_else.told(spec, own, min(own, int(counts.get("groups") or 0))), spec)


def _plots(
    spec: DiseaseSpec, figures: dict[str, Any], rows: pd.DataFrame, decision: Decision, history: Sequence[dict[str, float]]
) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    y, p = truth(rows, spec), probabilities(rows, spec)
    groups = None if spec.split.grouping == "none" else rows["group_id"].to_numpy(dtype=object)
    binary, among = spec.target.kind == "binary", list(spec.positive_indices)
    curves = []
    if among:
        positive = np.isin(y, among).astype(int)
        if 0 < positive.sum() < len(positive):
            curves.append((spec.target.positive, positive, p[:, among].sum(1), groups))
    by_class = []
    for k in () if binary else range(len(spec.target.classes)):
        labels = (y[:, k] > 0 if y.ndim == 2 else y == k).astype(int)
        if 0 < labels.sum() < len(labels):
            by_class.append((spec.target.classes[k], labels, p[:, k], groups))
    if curves:
        operating = None
        if figures["metrics"].get("sensitivity", {}).get("value") is not None and figures["metrics"].get("specificity", {}).get("value") is not None:
            operating = (1 - figures["metrics"]["specificity"]["value"], figures["metrics"]["sensitivity"]["value"])
        auc = figures["metrics"]["auc"]
        words = f"AUC {_text(auc)}"
        caption = f"Positive: {_about_positive(spec)}. " if not binary else ""
        caption += f"Band: 95 % of resamples at each false-positive rate. Rule chosen on validation: {decision.rule}."
        found.append({"title": "ROC", "words": caption, "svg": plots.roc(curves, operating, words)})
    if by_class:
        words = f"mean of classes {_text(figures['metrics']['auc'])}" if not among else ""
        found.append({"title": "ROC by class", "words": "Each class against the rest.", "svg": plots.roc(by_class, None, words)})
    if len(rows) >= 50 and y.ndim == 1:
        hit = (y == spec.positive_index) if binary else (p.argmax(1) == y)
        top = p[:, spec.positive_index] if binary else p.max(1)
        words = "Probabilities were calibrated on validation. On the diagonal they come true as promised; whiskers are 95 % intervals."
        found.append({"title": "Reliability", "words": words if binary else f"Of the top class. {words}", "svg": plots.reliability(hit, top)})
    if binary and len(rows):
        k = spec.positive_index
        words = "Test samples by true class; right of the dashed line the decision is positive."
        if "folds" in figures:
            words = "By true class. The dashed line is the registered model's threshold; each fold decides by its own."
        found.append({"title": "Scores", "words": words, "svg": plots.histogram(spec.target.classes, y, p[:, k], k, decision.threshold)})
    if len(history) > 1 and all("train_loss" in e and "epoch" in e for e in history):
        words = "The weights of the best epoch on validation were kept." + (" Of the registered model." if "folds" in figures else "")
        found.append({"title": "Learning", "words": words, "svg": plots.learning(history)})
    return found


def _tested(spec: DiseaseSpec, figures: dict[str, Any]) -> str:
    """What was tested, as a part of a sentence."""
    if "folds" not in figures:
        return "on the test split"
    one = "one for each " + spec.split.grouping if spec.split.folds == "group" else f"cut by {spec.split.grouping}"
    return f"by cross-validation in {len(figures['folds'])} folds, {one}"


def _about_positive(spec: DiseaseSpec) -> str:
    """The classes that count as positive; empty where none do."""
    return " + ".join(spec.target.classes[k] for k in spec.positive_indices)


def _folds(spec: DiseaseSpec, figures: dict[str, Any], model: dict[str, Any]) -> dict[str, Any] | None:
    """Rows of the fold table: what was tested, what was found, and how the fold's training went."""
    if "folds" not in figures:
        return None
    trained = {f["fold"]: f for f in model.get("folds", [])}
    names = list(figures["over_folds"])
    rows = []
    for fold in figures["folds"]:
        own = trained.get(fold["fold"], {})
        best = own.get("best", {})
        rows.append(fold | {"values": [_value(fold["metrics"][n]) for n in names], "best_epoch": own.get("best_epoch"), "epochs": own.get("epochs"),
                            "val": _value(best.get("val_auc", best.get("val_loss"))), "trained": own.get("samples", {})})  # fmt: skip
    over = []
    for o in figures["over_folds"].values():
        few = f" of {o['folds']}" if o["folds"] < len(rows) else ""
        over.append((_value(o["mean"]), f"± {o['sd']:.3f}{few}" if o["sd"] is not None else few.strip()))
    return {
        "names": names,
        "rows": rows,
        "over": over,
        "val": "val AUC" if any("val_auc" in f.get("best", {}) for f in trained.values()) else "val loss",
    }


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _external(spec: DiseaseSpec, figures: dict[str, Any]) -> list[dict[str, Any]]:
    """The external test sets, with the main source in the first row to compare."""
    found = figures.get("external", {})
    if not found:
        return []
    counts = figures["counts"]
    main = {"name": "this source", "missing": False, "n": counts["answered"], "abstained": counts["test"] - counts["answered"],
            "counts": counts["classes"], "metrics": figures["metrics"], "devices": len(figures["devices"]), "main": True}  # fmt: skip
    return [main, *({"name": name, "main": False} | facts for name, facts in found.items())]


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
        ("folds", f"{provenance.get('folds', len(figures['folds']))}; the registered model: {counts.get('train')} train, {counts.get('val')} val")
        if "folds" in figures
        else ("train / val / test", f"{counts.get('train')} / {counts.get('val')} / {counts.get('test')}"),
        (
            "grouping",
            "none: the source's own split was kept"
            if spec.split.grouping == "none"
            else f"by {spec.split.grouping}, no {spec.split.grouping} in two {'folds' if 'folds' in figures else 'splits'}",
        ),
        ("answered", _coverage(figures)),
    ]
    reasons = sorted(facts["quarantine"].items(), key=lambda pair: (-pair[1], pair[0]))
    total = sum(facts["quarantine"].values())
    text = f"{total}" + (": " + "; ".join(f"{reason} ({count})" for reason, count in reasons[:3]) if total else "")
    skipped = counts.get("skipped")
    lines.append(("quarantined files", text + (f"; {skipped} others were not meant, or repeat one" if skipped else "")))
    noted = [str(c.get("says", c.get("id"))) for c in facts["validation"].get("checks", []) if c.get("status") == "warn"]
    lines.append(("data validation", str(facts["validation"].get("verdict", "not known")) + (f"; not held: {'; '.join(noted)}" if noted else "")))
    for name, facts_of in provenance.get("external", {}).items():
        said = "not in the source" if facts_of["missing"] else f"{facts_of['samples']} samples"
        lines.append((f"external: {name}", said + (", for pre-training only" if facts_of["role"] == "pretrain" else "")))
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


def _two_lines(estimate: dict[str, Any] | None) -> tuple[str, str]:
    """Value and interval, for a narrow column."""
    if estimate is None:
        return "-", ""
    if estimate["value"] is None:
        return "insufficient", f"evidence (n={estimate['n']})"
    return f"{estimate['value']:.3f}", f"{estimate['low']:.3f}-{estimate['high']:.3f}"
