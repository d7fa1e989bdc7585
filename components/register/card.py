"""The model card: what the model is for, what it was measured at, and what nobody knows about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.core.gates import Judgement
from components.core.outside import sentence
from components.core.package import name_of
from components.core.spec import DiseaseSpec


def render(spec: DiseaseSpec, judgement: Judgement, *, synthetic: bool, facts: dict[str, Any]) -> str:
    """Markdown.

    Args:
        facts: `dataset` (dataset.json), `validation` (its verdict), `model` (model.json), `figures` (metrics.json), `operating`, `features`,
            `onnx` (what the export found), `engine` (what less than float32 changes), `outside` (whether images of something else are told).
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)  # noqa: S701 Markdown
    environment.filters |= {"cell": _cell, "estimate": _estimate, "by_device": _by_device}
    model = {"n_parameters": None, "seed": None} | facts["model"]
    return environment.get_template("card.md.j2").render(
        spec=spec,
        judgement=judgement,
        name=name_of(spec.name, synthetic=synthetic),
        package={"synthetic": synthetic},
        limits=[*_limits(spec, facts["figures"], synthetic=synthetic), sentence(facts["outside"], spec)],
        **(facts | {"model": model}),
    )


def _limits(spec: DiseaseSpec, figures: dict[str, Any], *, synthetic: bool) -> list[str]:
    if "folds" in figures:
        lines = [
            f"Measured by cross-validation in {len(figures['folds'])} folds of the training source, on models like this one: this very model was "
            "trained on all of it. Other hospitals, scanners and case mixes are not covered."
        ]
    else:
        lines = ["Measured on one test split of the training source: other hospitals, scanners and case mixes are not covered."]
    if missing := [name for name, e in figures.get("external", {}).items() if e["missing"]]:
        lines.append(f"Not measured on the external set{'s' if len(missing) > 1 else ''} {', '.join(missing)}: the source did not hold it.")
    lines += [f"Data validation: not held: {one['says']} ({one['seen']})." for one in figures.get("leakage", [])]
    if synthetic:
        lines.insert(0, "Trained and tested on synthetic data: nothing here holds for a patient.")
    if spec.split.grouping == "none":
        lines.append("The source names no patients: figures may be too good and intervals too narrow.")
    if (added := figures.get("covariates")) and (added["fused"] or added.get("folds_fused")) and added["auc"]["image"] is not None:
        words = f"Figures are with covariates ({', '.join(spec.covariates)}), as often as the source tells them; "
        lines.append(f"{words}by the image alone the AUC is {added['auc']['image']:.3f}, with them {added['auc']['fused']:.3f}.")
    if unjudged := [d["name"] for d in figures["devices"].values() if d["auc"]["value"] is None]:
        lines.append(f"No claim for {len(unjudged)} of {len(figures['devices'])} devices: too few samples.")
    lines.append("Probabilities hold for the case mix of the source; where a class is rarer, they are too high for it.")
    lines.append("Performance changes with scanners and patients: the drift report must be read.")
    return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _estimate(e: dict[str, Any]) -> str:
    if e["value"] is None:
        return f"{e.get('reason', 'insufficient evidence')} | | | {e['n']}"
    return f"{e['value']:.3f} | {e['low']:.3f} | {e['high']:.3f} | {e['n']}"


def _by_device(e: dict[str, Any]) -> str:
    if e["value"] is None:
        return f"| | | {e.get('reason', 'insufficient evidence')}"
    return f"{e['value']:.3f} | {e['low']:.3f} | {e['high']:.3f} |"
