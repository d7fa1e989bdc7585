"""`:explain`: where in the sample the answer comes from, as pictures. See `components/core/heatmap.py` for how the heat is found."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.core import heatmap
from components.core.cores import available_cores
from components.core.engines import OnnxRuntime
from components.core.heatmap import FEATURES, HEAD
from components.core.package import ModelPackage
from components.core.spec import DiseaseSpec

LEAST_SIDE = 384  # pixels: a patch of 52 is drawn larger, each of its pixels a square
LANE = 90  # pixels of height for each channel of a recording
WIDTH = 720
STRENGTH = 0.55
RAMP = np.array([[255, 237, 160], [254, 178, 76], [240, 59, 32], [128, 0, 38]], float)
"""Light yellow to dark red: heat reads as heat on grey and on tissue, for colour-blind readers by its lightness alone."""
Bytes = NDArray[np.uint8]


class Explainer:
    """Of one package; loads what it needs at the first question. Not for several threads at once."""

    def __init__(self, package: ModelPackage) -> None:
        self._package, self._spec = package, package.spec
        self._whole: Any = None
        self._head: Any = None

    @property
    def offered(self) -> bool:
        """A row of a table has no places."""
        return self._spec.input.layout != "table"

    def heat(self, x: NDArray[np.float32], classes: Sequence[int]) -> tuple[NDArray[np.float32], str]:
        """Heat (*places) in [0, 1] of one normalised sample (C, *places), and the method's name."""
        self._load()
        if self._head is not None:
            (features,) = self._whole.run([FEATURES], {"x": x[None]})
            return heatmap.grad_cam(features[0], lambda f: self._head.run(["scores"], {FEATURES: f})[0], classes, x.shape[1:]), "Grad-CAM"
        return heatmap.occlusion(x, lambda batch: self._whole.run(batch)[0], classes), "occlusion"

    def _load(self) -> None:
        if self._whole is not None:
            return
        path = self._package.folder / HEAD
        if HEAD in self._package.info["files"]:
            self._whole, self._head = (_session(p) for p in (self._package.onnx, path))
        else:
            self._whole = OnnxRuntime(self._package.onnx, self._package.model_facts.get("feature_name"), name=self._package.name)


def _session(path: Any) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = available_cores(), 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def overlay_png(array: NDArray[Any], heat: NDArray[np.float32], spec: DiseaseSpec) -> bytes:
    """The sample with its heat on it: an image; of a volume the three planes through the hottest place; of a recording its channels over time.

    Args:
        array: (C, *places), in the spec's unit.
        heat: (*places) in [0, 1].
    """
    if spec.input.layout == "window":
        return _png(_lanes(np.asarray(array, float), heat))
    picture = _grey_or_colour(np.asarray(array, float), spec)
    if heat.ndim == 2:
        return _png(_enlarged(_mixed(picture, heat)))
    z, y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    planes = [(picture[z], heat[z]), (picture[::-1, y], heat[::-1, y]), (picture[::-1, :, x], heat[::-1, :, x])]
    drawn = [_enlarged(_mixed(p, h)) for p, h in planes]
    height = max(len(d) for d in drawn)
    gap = np.full((height, 8, 3), 255, np.uint8)
    row: list[Bytes] = []
    for d in drawn:
        row += [np.pad(d, ((0, height - len(d)), (0, 0), (0, 0)), constant_values=255), gap]
    return _png(np.concatenate(row[:-1], axis=1))


def layer_png(heat: NDArray[np.float32]) -> bytes:
    """The heat alone, transparent where there is none, one pixel for each of the image's, for a viewer that can switch it on and off. Volumes: their
    slices one below the other. Recordings: one row of pixels."""
    flat = heat[None] if heat.ndim == 1 else heat.reshape(-1, heat.shape[-1])
    rgba = np.dstack([_colours(flat), np.round(255 * STRENGTH * flat).astype(np.uint8)])
    return _png(rgba)


def _grey_or_colour(array: NDArray[np.float64], spec: DiseaseSpec) -> Bytes:
    """(C, *places) -> (*places, 3). The window is the sample's own 1st to 99th percentile, within the spec's range."""
    low, high = np.percentile(np.clip(array, *spec.input.range), (1, 99)) if len(array) == 1 else spec.input.range
    bytes_ = np.round(255 * np.clip((array - low) / max(high - low, 1e-9), 0, 1)).astype(np.uint8)
    return np.stack([bytes_[c if len(array) == 3 else 0] for c in range(3)], axis=-1)


def _colours(heat: NDArray[np.floating]) -> Bytes:
    at = np.clip(heat, 0, 1) * (len(RAMP) - 1)
    low = np.minimum(at.astype(int), len(RAMP) - 2)
    share = (at - low)[..., None]
    return np.round(RAMP[low] * (1 - share) + RAMP[low + 1] * share).astype(np.uint8)


def _mixed(picture: Bytes, heat: NDArray[np.floating]) -> Bytes:
    weight = STRENGTH * np.clip(heat, 0, 1)[..., None]
    return np.round(picture * (1 - weight) + _colours(heat) * weight).astype(np.uint8)


def _enlarged(picture: Bytes) -> Bytes:
    times = max(1, -(-LEAST_SIDE // max(picture.shape[:2])))
    return picture.repeat(times, 0).repeat(times, 1)


def _lanes(array: NDArray[np.float64], heat: NDArray[np.floating]) -> Bytes:
    """Each channel a curve on its own lane, the heat behind all of them."""
    channels, length = array.shape
    times = max(1, WIDTH // length)
    column = _mixed(np.full((1, length, 3), 255, np.uint8), heat[None])[0].repeat(times, 0)
    out = np.repeat(column[None], channels * LANE, axis=0)
    for c, values in enumerate(array):
        low, high = float(values.min()), float(values.max())
        y = np.round((LANE - 10) * (1 - (values - low) / max(high - low, 1e-9))).astype(int) + 5 + c * LANE
        at = y.repeat(times)
        before = np.r_[at[0], at[:-1]]
        for x, (a, b) in enumerate(zip(np.minimum(before, at), np.maximum(before, at), strict=True)):
            out[a : b + 2, x] = (30, 30, 30)
        if c:
            out[c * LANE] = 210
    return out


def _png(pixels: Bytes) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, format="PNG", optimize=False)
    return out.getvalue()
