"""What only groups and the samples in them can tell: lesions found in heat-maps, a human reader beside the model, pictures of both.

Everything comes from `predictions.parquet` (groups) and `samples.parquet` (their samples); marks, matching and the combination with the
reader are fitted on nothing or on validation.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core import froc, metrics, reader_combination
from components.core.errors import SpecError
from components.core.features.heatmap28 import heatmap, pitch
from components.core.metrics import Estimate, insufficient
from components.core.spec import DiseaseSpec
from components.evaluate import plots

if TYPE_CHECKING:
    import pandas as pd

TILES_NEAR = 1.5  # marks nearer than so many tiles are one finding, whatever the protocol's microns
SHOWN = 2
SCALE = 8  # pixels of a tile in a picture
PICTURE_TILES = 160  # sides above are shown every second, third, ... tile


def add(spec: DiseaseSpec, figures: dict[str, Any], predictions: pd.DataFrame, samples: pd.DataFrame) -> list[dict[str, str]]:
    """Write `metrics.froc`, `froc` and `reader` into the figures, where the spec and the data have them; returns plots for the report.

    Args:
        figures: As for metrics.json; changed.
        predictions: One row per group; `reader_score` where the source has one.
        samples: One row per sample: `sample_id`, `group_id`, `split`, `score_<class>`, `place`, `lesion_id`.

    Raises:
        SpecError: A metric of groups that there is no rule for.
    """
    if unable := [name for name in spec.metrics if name == "dice"]:
        raise SpecError("no such metric of groups", where=f"{spec.name}: metrics", got=f"'{unable[0]}'", allowed="froc")
    found: list[dict[str, str]] = []
    test = samples[samples["split"] == "test"]
    if "froc" in spec.metrics:
        rates = lesions(spec, test)
        figures["metrics"]["froc"] = rates.pop("mean").to_dict()
        figures["froc"] = {rate: estimate.to_dict() for rate, estimate in rates.items()}
        device = predictions[predictions["split"] == "test"].set_index("group_id")["device_key"]
        for key, facts in figures["devices"].items():
            own = test[test["group_id"].map(device) == key]
            few = own["group_id"].nunique() < spec.device.min_n
            facts["froc"] = (insufficient(int(own["lesion_id"].nunique())) if few else lesions(spec, own)["mean"]).to_dict()
        if figures["metrics"]["froc"]["value"] is not None:
            found.append(_curve(figures["froc"], figures["metrics"]["froc"]))
    if (reader := beside_reader(spec, predictions)) is not None:
        figures["reader"], picture = reader
        found.append(picture)
    if spec.input.layout == "tiles" and spec.target.kind == "binary":
        found += pictures(spec, predictions, test)
    return found


def lesions(spec: DiseaseSpec, samples: pd.DataFrame) -> dict[str, Estimate]:
    """FROC over the slides of `samples`. Raises SpecError where samples have no place."""
    if spec.target.kind != "binary" or spec.input.layout != "tiles":
        where = f"{spec.name}: metrics"
        raise SpecError(
            "lesions need tiles and a positive class", where=where, got=f"'{spec.target.kind}', '{spec.input.layout}'", allowed="binary tiles"
        )
    score = f"score_{spec.target.classes[spec.positive_index]}"
    slides = []
    for _, rows in samples.groupby("group_id", sort=True):
        places = _places(rows)
        near = max(froc.NEAR_UM, TILES_NEAR * pitch(places))
        slides.append(froc.slide(places, rows[score].to_numpy(dtype=np.float64), rows["lesion_id"].tolist(), near=near))
    return froc.froc(slides) if slides else {"mean": insufficient(0)}


def beside_reader(spec: DiseaseSpec, predictions: pd.DataFrame) -> tuple[dict[str, Any], dict[str, str]] | None:
    """AUC on test of the model, of the reader, and of both together, fitted on validation; None without a reader or without both classes."""
    if spec.target.kind != "binary" or "reader_score" not in predictions or predictions["reader_score"].isna().all():
        return None
    known = predictions[predictions["reader_score"].notna() & ~predictions["abstain"].astype(bool)]
    k = spec.positive_index
    parts = {}
    for name in ("val", "test"):
        rows = known[known["split"] == name]
        p = np.clip(rows[f"score_{spec.target.classes[k]}"].to_numpy(dtype=np.float64), 1e-6, 1 - 1e-6)
        parts[name] = ((rows["label"] == k).to_numpy(dtype=bool), np.log(p / (1 - p)), rows["reader_score"].to_numpy(dtype=np.float64))
    if any(len(np.unique(y)) < 2 for y, _, _ in parts.values()):
        return None
    fitted = reader_combination.fit(*parts["val"])
    y, model, reader = parts["test"]
    scores = {"model": model, "reader": reader, "both": fitted.apply(model, reader)}
    floor = spec.gates.min_per_class
    facts: dict[str, Any] = {name: metrics.auc_interval(y, s, min_per_class=floor).to_dict() for name, s in scores.items()}
    for other in ("model", "reader"):
        facts[f"both_minus_{other}"] = metrics.paired_auc_difference(y, scores["both"], scores[other], min_per_class=floor).to_dict()
    facts |= {"n": len(y), "fitted_on": len(parts["val"][0]), "combination": fitted.to_dict()}
    words = "; ".join(f"{name} {_text(facts[name])}" for name in scores)
    words = f"AUC of slides: {words}. Both: logistic combination fitted on {facts['fitted_on']} validation groups."
    curves = [(name, y.astype(int), s, None) for name, s in scores.items()]
    return facts, {"title": "Model and reader", "words": words, "svg": plots.roc(curves, None, "model, reader, both")}


def pictures(spec: DiseaseSpec, predictions: pd.DataFrame, samples: pd.DataFrame) -> list[dict[str, str]]:
    """Heat-maps of test slides: the positive ones that the model is surest and least sure of, and the negative one that it takes most for one."""
    name = spec.target.classes[spec.positive_index]
    test = predictions[predictions["split"] == "test"].sort_values([f"score_{name}", "group_id"], ascending=[False, True])
    positive, negative = test[test["label"] == spec.positive_index], test[test["label"] != spec.positive_index]
    chosen = [
        ("surest", positive.iloc[:1]),
        ("least sure", positive.iloc[-1:] if len(positive) > 1 else positive[:0]),
        ("highest normal", negative[:1]),
    ]
    found = []
    for title, rows in chosen:
        for _, row in rows.iterrows():
            own = samples[samples["group_id"] == row["group_id"]]
            if not len(own):
                continue
            words = f"{row['group_id']}: p({name}) = {row[f'score_{name}']:.2f}, true class {spec.target.classes[int(row['label'])]}."
            found.append({"title": f"Heat-map, {title}", "words": words + LEGEND, "svg": picture(own, f"score_{name}")})
    return found


LEGEND = " Left the model's tiles, from white (0) to red (1) on tissue; right the tiles that touch a drawn lesion."


def picture(rows: pd.DataFrame, score: str) -> str:
    """Two panels as an SVG that holds one PNG."""
    from PIL import Image

    places = _places(rows)
    p = heatmap(places, rows[score].to_numpy(dtype=np.float64))
    truth = heatmap(places, rows["lesion_id"].notna().to_numpy(dtype=np.float64))
    every = max(1, -(-max(p.shape) // PICTURE_TILES))
    panels = [_coloured(p[::every, ::every], (200, 30, 40)), _coloured(truth[::every, ::every], (40, 60, 120))]
    gap = np.full((panels[0].shape[0], 1, 3), 255, np.uint8)
    whole = Image.fromarray(np.concatenate([panels[0], gap, panels[1]], axis=1))
    side = max(1, SCALE * 32 // max(whole.height, 1)) if whole.height < 64 else 4
    buffer = io.BytesIO()
    whole.resize((whole.width * side, whole.height * side), Image.Resampling.NEAREST).save(buffer, "PNG")
    width, height = whole.width * side, whole.height * side
    data = base64.b64encode(buffer.getvalue()).decode()
    label = 'role="img" aria-label="Heat-map beside the drawn lesions"'
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}" style="max-width:100%;height:auto"'
    return f'<svg {label} {box}><image width="{width}" height="{height}" href="data:image/png;base64,{data}"/></svg>'


def _coloured(values: NDArray[np.float64], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """(H, W) in [0, 1] with NaN for glass -> (H, W, 3)."""
    share = np.nan_to_num(values)[..., None]
    out = 245 * (1 - share) + np.array(colour) * share
    return np.where(np.isnan(values)[..., None], 215, out).astype(np.uint8)


def _curve(rates: dict[str, Any], mean: dict[str, Any]) -> dict[str, str]:
    x = np.log2([float(rate) for rate in rates])
    plot = plots.Plot((float(x.min()), float(x.max())), (0, 1), size=(300, 300))
    plot.axes("false positives a slide, as a power of 2", "share of lesions found", xticks=x.tolist())
    values = [e["value"] for e in rates.values()]
    plot.band(x, [e["low"] for e in rates.values()], [e["high"] for e in rates.values()])
    plot.line(x, values)
    for a, b in zip(x, values, strict=True):
        plot.point(float(a), b)
    words = f"Mean over the marked rates {_text(mean)}, {mean['n']} lesions. A mark finds a lesion when its tile touches the outline."
    return {"title": "FROC", "words": words, "svg": plot.svg(f"FROC. {words}")}


def _places(rows: pd.DataFrame) -> NDArray[np.float64]:
    return np.stack([np.asarray(v, dtype=np.float64) for v in rows["place"]])


def _text(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return str(estimate.get("reason", "insufficient evidence"))
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
