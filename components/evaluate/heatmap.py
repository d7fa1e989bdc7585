"""Where a model looks: for a few test images, which places speak for the positive class.

A network's map is each place's share in the score: the gradient of the score with respect to the network's last feature maps, times these maps,
summed over maps. Where only means, maxima and one linear layer follow the maps, the shares add up to the score less its constant, exactly; deeper
heads make it a first approximation. Any other family is asked by occlusion: how much the score falls when a window is covered with the image's
own blur. Both tell what moved this model, not what is ill.

Source:
    Draelos and Carin, arXiv:2011.08891 (element-wise gradient times activation); Zeiler and Fergus, ECCV 2014 (occlusion).
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.core.devices import DeviceProfile
from components.core.errors import DataError
from components.core.log_odds import log_odds
from components.core.models.family import Estimator
from components.core.models.torch_fit import TorchEstimator
from components.core.spec import DiseaseSpec

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from components.core.models.samples import Samples

LEAST_SIDE = 6  # feature maps with fewer places say too little about where
COVER, STEP = 0.2, 0.1  # occlusion: side of the window and distance to the next one, as shares of the image's side
SHOWN = 2  # images of each kind in the report
PIXELS = 96  # side of a picture in the report
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """One image of the report: `image` and `overlay` are small JPEG files as data URIs, `words` what the model said and what was true."""

    image: str
    overlay: str
    words: str


def attribution(spec: DiseaseSpec, estimator: Estimator, x: Floats, k: tuple[int, ...]) -> Floats:
    """Which places raise the log-odds of the classes `k` against the others.

    Args:
        x: (N, C, H, W) in [0, 1].
        k: Scores whose sum of probabilities is meant, as `spec.positive_indices`.

    Returns:
        (N, H, W), at least 0, in units of log-odds per place of the map it was made of; all 0 where nothing speaks for `k`.
    """
    found = _from_gradients(spec, estimator, x, k) if isinstance(estimator, TorchEstimator) else None
    return found if found is not None else occlusion(spec, estimator, x, k)


def occlusion(spec: DiseaseSpec, estimator: Estimator, x: Floats, k: tuple[int, ...]) -> Floats:
    """The same by covering one window after another; windows overlap, and each pixel gets the mean of its windows."""
    from scipy.ndimage import gaussian_filter

    n, _, height, width = x.shape
    plain = gaussian_filter(x, (0, 0, height * COVER, width * COVER), mode="nearest")
    sides = [max(1, round(COVER * side)) for side in (height, width)]
    steps = [max(1, round(STEP * side)) for side in (height, width)]
    total, seen = np.zeros((n, height, width), dtype=np.float32), np.zeros((height, width), dtype=np.float32)
    before = log_odds(estimator.scores(x), k, multilabel=spec.target.kind == "multilabel")
    for top in range(0, max(1, height - sides[0] + steps[0]), steps[0]):
        for left in range(0, max(1, width - sides[1] + steps[1]), steps[1]):
            window = np.s_[..., top : top + sides[0], left : left + sides[1]]
            covered = x.copy()
            covered[window] = plain[window]
            lost = before - log_odds(estimator.scores(covered), k, multilabel=spec.target.kind == "multilabel")
            total[window] += lost[:, None, None]
            seen[window] += 1
    return np.maximum(total / seen, 0)


def _from_gradients(spec: DiseaseSpec, estimator: TorchEstimator, x: Floats, k: tuple[int, ...]) -> Floats | None:
    """None where the network has no feature maps of images."""
    import torch

    maps: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[2:]) >= LEAST_SIDE and output.requires_grad:
            maps.append(output)

    module = estimator.module.eval()
    hooks = [part.register_forward_hook(keep) for part in module.modules() if part is not module]
    try:
        with torch.enable_grad():
            image = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(estimator.device).requires_grad_()
            scores = module(image)
            if not maps:
                return None
            last = maps[-1]
            if spec.target.kind == "multilabel":
                wanted = scores[:, list(k)].sum(1)
            else:
                rest = [j for j in range(scores.shape[1]) if j not in k]
                wanted = torch.logsumexp(scores[:, list(k)], 1) - torch.logsumexp(scores[:, rest], 1)
            (gradient,) = torch.autograd.grad(wanted.sum(), last)
            share = (gradient * last).sum(1, keepdim=True).clamp(min=0)
            whole = torch.nn.functional.interpolate(share, size=x.shape[2:], mode="bilinear", align_corners=False)
            return whole[:, 0].detach().float().cpu().numpy()
    finally:
        for hook in hooks:
            hook.remove()


def pictures(spec: DiseaseSpec, estimator: Estimator, samples: Samples, rows: pd.DataFrame, positive: NDArray[np.bool_], p: Floats) -> list[Picture]:
    """Maps for up to `SHOWN` positives of the test split that were found most clearly, positives missed most clearly, and loudest false alarms.

    Args:
        samples, rows: The split, in one order.
        positive: (n,) whether each sample is positive.
        p: (n,) calibrated probability of that.

    Returns:
        Nothing where the input is no image or the target names no positive class.
    """
    k = spec.positive_indices
    if spec.input.layout != "image" or not k or len(spec.input.shape) != 3 or not len(rows):
        return []
    order = np.argsort(-p, kind="stable")
    found = order[positive[order]]
    alarms = order[~positive[order]]
    chosen = [*found[:SHOWN], *found[: SHOWN - 1 : -1][:SHOWN], *alarms[:SHOWN]]
    if not chosen:
        return []
    x = samples.batch(np.array(chosen, dtype=np.int64))
    maps = attribution(spec, estimator, x, k)
    scale = float(np.percentile(maps, 99.5)) or 1.0  # one scale for all, so that a map that says little looks so
    said = {True: f"true: {spec.target.positive}", False: f"true: not {spec.target.positive}"}
    return [
        Picture(_file(_shown(image)), _file(_overlaid(_shown(image), np.clip(heat / scale, 0, 1))), f"p = {p[i]:.2f}, {said[bool(positive[i])]}")
        for i, image, heat in zip(chosen, x, maps, strict=True)
    ]


def plots(
    spec: DiseaseSpec, estimator: Estimator, *, dataset: Path, features: Path, reference: DeviceProfile | None, predictions: pd.DataFrame
) -> list[dict[str, str]]:
    """The report's figure, as `report.render` takes further plots: title, words, svg; nothing where there is nothing to show.

    Args:
        reference: What the model was trained with.
        predictions: As evaluated; its rows of the test split stand in the split's order.
    """
    from feature_store.training import load_split

    k = spec.positive_indices
    if spec.input.layout != "image" or not k or spec.target.kind == "multilabel":
        return []
    split = load_split(spec, dataset, features, "test", reference)
    rows = predictions[predictions["split"] == "test"].reset_index(drop=True)
    if rows["sample_id"].tolist() != split.rows["sample_id"].tolist():
        raise DataError("predictions of other samples", where="heat-maps", got=len(rows), allowed=len(split.rows))
    p = sum(rows[f"score_{spec.target.classes[j]}"].to_numpy(np.float64) for j in k)
    made = pictures(spec, estimator, split.samples, rows, np.isin(rows["label"].to_numpy(np.int64), k), np.asarray(p, dtype=np.float32))
    if not made:
        return []
    words = (
        "Each pair is a test image and, over its grey copy, the places that speak for "
        f"'{spec.target.positive}': positives found most clearly, positives missed most clearly, loudest false alarms. One colour scale for all. "
        "It tells what moved this model, not what is ill."
    )
    return [{"title": "Where the model looks", "words": words, "svg": _sheet(made)}]


def _sheet(made: list[Picture], across: int = 3) -> str:
    """Pairs side by side, what was said and true below each."""
    side, gap, line = 88, 8, 30
    width, height = across * (2 * side + gap) - gap, -(-len(made) // across) * (side + line)
    parts = []
    for n, one in enumerate(made):
        x, y = n % across * (2 * side + gap), n // across * (side + line)
        parts += [
            f'<image x="{x + i * side}" y="{y}" width="{side}" height="{side}" href="{uri}"/>' for i, uri in enumerate((one.image, one.overlay))
        ]
        parts.append(f'<text class="tick" x="{x}" y="{y + side + 16}">{escape(one.words)}</text>')
    box = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return f'<svg role="img" aria-label="Test images and their heat-maps" {box} style="max-width:100%;height:auto">{"".join(parts)}</svg>'


def _shown(image: Floats) -> Floats:
    """(C, H, W) in [0, 1] -> (PIXELS, PIXELS, 3), the shape kept, empty space black."""
    from PIL import Image

    grey = np.moveaxis(image, 0, 2) if image.shape[0] == 3 else np.repeat(image.mean(0)[..., None], 3, axis=2)
    side = max(grey.shape[:2])
    square = np.zeros((side, side, 3), dtype=np.float32)
    square[: grey.shape[0], : grey.shape[1]] = grey
    whole = Image.fromarray(np.rint(np.clip(square, 0, 1) * 255).astype(np.uint8)).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
    return (np.asarray(whole) / 255).astype(np.float32)


def _overlaid(picture: Floats, heat: Floats) -> Floats:
    """The grey picture under the map: nothing where the map is 0, yellow to red where it is high."""
    from PIL import Image

    side = max(heat.shape)
    square = np.zeros((side, side), dtype=np.float32)
    square[: heat.shape[0], : heat.shape[1]] = heat
    wide = np.clip(np.asarray(Image.fromarray(square).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)), 0, 1)[..., None]
    colour = np.concatenate([np.ones_like(wide), 0.85 * (1 - wide), np.zeros_like(wide)], axis=2)
    grey = np.repeat(picture.mean(2, keepdims=True), 3, axis=2)
    return (grey + (colour - grey) * np.sqrt(wide) * 0.75).astype(np.float32)


def _file(picture: Floats) -> str:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")
