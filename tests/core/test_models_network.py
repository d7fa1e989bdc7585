"""The published network's shape, the options of a family, and what reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from components.core.errors import DataError, SpecError
from components.core.models import build, kinds
from components.core.models.sun2016_cnn import Architecture, network, sizes
from components.core.spec import DiseaseSpec

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"


def spec_with(kind: str = "sun2016-cnn", *, shape: tuple[int, ...] = (1, 52, 52), **options: object) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["input"]["shape"] = list(shape)
    raw["families"] = {"cnn": {"kind": kind, "options": options}}
    return DiseaseSpec.from_json(json.dumps(raw))


def test_published_shape_24_10_3_and_4036_weights():
    """52 -> 24 -> 10 -> 3; 5x5 kernels: 12(25+1) + 8(12x25+1) + 6(8x25+1), then 54 inputs to 2 scores."""
    assert sizes((52, 52), Architecture(), where="") == [(24, 24), (10, 10), (3, 3)]
    weights = sum(p.numel() for p in network((1, 52, 52), 2, Architecture()).parameters())
    assert weights == 12 * 26 + 8 * 301 + 6 * 201 + 54 * 2 + 2 == 4036


@pytest.mark.parametrize(("shape", "same"), [((1, 50, 50), False), ((3, 64, 40), False), ((3, 28, 28), True), ((2, 36, 36), False)])
def test_takes_other_image_sizes(shape: tuple[int, int, int], same: bool):
    import torch

    assert network(shape, 5, Architecture(same=same)).eval()(torch.zeros(2, *shape)).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"widht": 2}, "unknown option; got 'widht'; allowed: acquisition_jitter, average"),
        ({"dropout": 1.5}, "dropout: out of range; got 1.5"),
        ({"batch_norm": 1}, "batch_norm: not allowed; got 1; allowed: true, false"),
        ({"maps": [8.5]}, "a list of whole numbers"),
        ({"residual": 0.5}, "a whole number"),
        ({"rotation": "all"}, "none, quarter, any"),
    ],
)
def test_wrong_option_is_named_with_what_is_allowed(options: dict[str, object], said: str):
    with pytest.raises(SpecError) as error:
        build(spec_with(**options))
    assert said in str(error.value)


def test_image_that_vanishes_is_refused():
    with pytest.raises(SpecError, match="vanish"):
        build(spec_with(shape=(1, 28, 28)))


def test_kinds_are_files_and_an_unknown_one_lists_them():
    assert {"sun2016-cnn", "features-svm"} <= set(kinds())
    assert not {"family", "samples", "torch-fit", "family-options"} & set(kinds())
    with pytest.raises(SpecError, match="sun2016-cnn"):
        build(spec_with("resnet-9000"))


def test_weights_of_another_network_are_refused(tmp_path: Path):
    build(spec_with(maps=[4, 4, 4])).save(tmp_path)
    with pytest.raises(DataError, match="another network"):
        build(spec_with()).load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"PK\x03\x04 not weights")
    with pytest.raises(DataError, match="no readable weights"):
        build(spec_with()).load(tmp_path)


def test_views_make_scores_independent_of_orientation():
    import numpy as np

    x = np.random.default_rng(0).random((3, 1, 52, 52), dtype=np.float32)
    turned = np.ascontiguousarray(np.rot90(x, axes=(2, 3)))
    averaged, plain = build(spec_with(views=True)), build(spec_with())
    assert np.allclose(averaged.scores(x), averaged.scores(turned), atol=1e-6)
    assert not np.allclose(plain.scores(x), plain.scores(turned), atol=1e-4)


def test_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch):
    for asked in ("tpu", "cuda:99"):
        monkeypatch.setenv("DXFLOW_DEVICE", asked)
        with pytest.raises(SpecError, match="DXFLOW_DEVICE"):
            build(spec_with())
