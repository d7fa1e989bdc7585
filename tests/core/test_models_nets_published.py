"""Published networks: their weights are the published number, and they train, shrink and export on other images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from components.core.cores import wait_asleep
from components.core.errors import SpecError
from components.core.models import build
from components.core.models.torch_backbone import network, outline
from components.core.spec import DiseaseSpec

wait_asleep()
SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"
PUBLISHED = [
    # kind, options, pixels, weights for 1000 classes
    ("alexnet", {}, 224, 61_100_840),
    ("vgg16", {}, 224, 138_357_544),
    ("googlenet", {}, 224, 6_624_904),
    # Keras counts 23,851,784 with 34,432 running statistics, and one number per map less, having no scale: half as many as statistics.
    ("inception-v3", {}, 299, 23_851_784 - 34_432 + 34_432 // 2),
    ("inception-resnet", {}, 299, 55_873_736 - 60_544 + 60_544 // 2),
    ("resnet", {"depth": 18}, 224, 11_689_512),
    ("resnet", {"depth": 34}, 224, 21_797_672),
    ("resnet", {"depth": 50}, 224, 25_557_032),
    ("resnet", {"depth": 101}, 224, 44_549_160),
    ("resnet", {"depth": 152}, 224, 60_192_808),
]
NAMES = [f"{kind}-{options.get('depth', '')}".strip("-") for kind, options, _, _ in PUBLISHED]


def parts(kind: str, **options: object):
    module = importlib.import_module(f"components.core.models.{kind.replace('-', '_')}")
    own = module.Architecture(**options)
    return module.published(own), own


def spec_with(kind: str, shape: tuple[int, ...], **options: object) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["input"]["shape"] = list(shape)
    raw["families"] = {"cnn": {"kind": kind, "epochs": 1, "batch": 4, "options": options}}
    return DiseaseSpec.from_json(json.dumps(raw))


@pytest.mark.parametrize(("kind", "options", "pixels", "weights"), PUBLISHED, ids=NAMES)
def test_weights_are_the_published_number(kind: str, options: dict[str, int], pixels: int, weights: int):
    body, seen = outline((3, pixels, pixels), 1000, *parts(kind, **options))
    assert seen == (pixels, pixels)
    assert sum(p.numel() for p in body.parameters()) == weights


@pytest.mark.parametrize(
    ("kind", "options", "pixels"),
    [
        ("alexnet", {}, 224),
        ("vgg16", {}, 64),
        ("googlenet", {}, 96),
        ("inception-v3", {}, 107),
        ("inception-resnet", {}, 75),
        ("resnet", {"depth": 18}, 64),
        ("resnet", {"depth": 50}, 64),
        ("resnet", {"depth": 152}, 64),
    ],
    ids=lambda v: str(v),
)
def test_all_published_maps_learn_and_export(kind: str, options: dict[str, int], pixels: int, tmp_path: Path):
    """Every weight gets a gradient from two images; ONNX Runtime agrees. The maps are the published ones, the images smaller."""
    import onnxruntime
    import torch

    from components.core.models.torch_onnx import export

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = network((3, pixels, pixels), 5, *parts(kind, **options)).train()
        x = torch.rand(2, 3, pixels, pixels)
        (module(x) * torch.randn(2, 5)).sum().backward()
    assert not [name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    module.zero_grad()
    export(module, (3, pixels, pixels), tmp_path / "model.onnx")
    (answer,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(["scores"], {"x": x[:1].numpy()})
    (tmp_path / "model.onnx").unlink()  # hundreds of megabytes
    with torch.inference_mode():
        expected = module.eval()(x[:1]).numpy()
    assert np.abs(answer - expected).max() <= 1e-4 * max(1.0, float(np.abs(expected).max()))


@pytest.mark.parametrize("kind", ["alexnet", "vgg16", "googlenet", "inception-v3", "inception-resnet", "resnet"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (4, 80, 100)])
def test_any_channels_and_size_with_an_eighth_of_the_maps(kind: str, shape: tuple[int, ...]):
    """Convolutions and hidden units scale with both their inputs and outputs: an eighth of the maps is about a 64th of the weights."""
    architecture, own = parts(kind, divide=8)
    whole, small = (outline(shape, 3, *parts(kind, divide=divide))[0] for divide in (1, 8))
    counts = [sum(p.numel() for p in body.parameters()) for body in (whole, small)]
    assert counts[1] / counts[0] == pytest.approx(1 / 64, rel=0.25)
    import torch

    module = network(shape, 3, architecture, own).eval()
    with torch.inference_mode():
        assert module(torch.rand(2, *shape)).shape == (2, 3)


def test_small_images_are_enlarged_with_their_shape_kept():
    """28 x 42 pixels: the shorter side becomes 75, the other 112.5 rounded to even; an asked size is that of the shorter side."""
    architecture, own = parts("inception-v3")
    assert outline((1, 28, 42), 2, architecture, own)[1] == (75, 112)
    assert outline((1, 28, 42), 2, *parts("resnet", size=56))[1] == (56, 84)
    assert outline((1, 28, 42), 2, *parts("resnet", depth=10))[1] == (28, 42)


def test_smallest_residual_network_keeps_small_images_at_their_resolution():
    """Weights by hand: stem 27x16, then 3 x 3 pairs 16-16, 16-32-32, 32-64-64, 64-128-128 with 1 x 1 shortcuts, two numbers per
    normalised map, and 128 to 2 scores."""
    body, _ = outline((3, 32, 32), 2, *parts("resnet", depth=10))
    kernels = 27 * 16 + 9 * (2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64 + 64 * 128 + 128 * 128) + 16 * 32 + 32 * 64 + 64 * 128
    normalised = 2 * (16 + 2 * 16 + 3 * (32 + 64 + 128))
    assert sum(p.numel() for p in body.parameters()) == kernels + normalised + 128 * 2 + 2


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        ("resnet", {"depth": 19}, "depth: not allowed; got 19; allowed: 10, 18, 34, 50, 101, 152"),
        ("resnet", {"divide": 3}, "divide: not allowed; got 3; allowed: 1, 2, 4, 8"),
        ("alexnet", {"size": 32}, "images are not made smaller in the network; got 32; allowed: 0, or at least 63"),
        ("resnet", {"pretrained": "IMAGENET1K_V9"}, "IMAGENET1K_V1, path of a .safetensors file"),
        ("inception-resnet", {"pretrained": "IMAGENET1K_V1"}, "tf_in1k"),
        ("resnet", {"depth": 10, "pretrained": "IMAGENET1K_V1"}, "allowed: path of a .safetensors file"),
        ("vgg16", {"pretrained": "IMAGENET1K_V1", "divide": 2}, "of the published maps"),
    ],
)
def test_wrong_option_is_one_line(kind: str, options: dict[str, object], said: str):
    with pytest.raises(SpecError) as error:
        build(spec_with(kind, (3, 52, 52), **options))
    assert said in str(error.value)


def test_input_that_is_no_image_is_refused():
    raw = json.loads(spec_with("resnet", (1, 52, 52)).to_json())
    raw["input"] |= {"layout": "volume", "shape": [1, 32, 32, 32], "spacing_mm": None}
    with pytest.raises(SpecError, match="takes images"):
        build(DiseaseSpec.from_json(json.dumps(raw)))
