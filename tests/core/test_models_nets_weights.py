"""Weights trained elsewhere: fitted to other channels and classes, read only when a training begins, and one line when they are not to be had."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from components.core.errors import DataError, ServiceError
from components.core.models import build
from components.core.models.samples import Samples
from components.core.models.torch_weights import Source, fill
from components.core.spec import DiseaseSpec

SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "lung-nodule.toml"


def spec_with(channels: int, weights: Path | str, **options: object) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["input"]["shape"] = [channels, 16, 16]
    family = {"kind": "resnet", "epochs": 1, "batch": 8, "lr": 1e-3, "options": {"depth": 10, "pretrained": str(weights), **options}}
    raw["families"] = {"cnn": family}
    return DiseaseSpec.from_json(json.dumps(raw))


def samples(channels: int, n: int = 16) -> Samples:
    x = np.random.default_rng(1).random((n, channels, 16, 16), dtype=np.float32)
    return Samples(batch=lambda rows: x[rows], labels=np.arange(n) % 2, groups=np.arange(n).astype(object))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Those of a network for five classes and colour images."""
    import torch
    from safetensors.torch import save_file

    from components.core.models.resnet import Architecture, published
    from components.core.models.torch_backbone import network

    own = Architecture(depth=10)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        body = network((3, 16, 16), 5, published(own), own).get_submodule("body")
    save_file({name: tensor.contiguous() for name, tensor in body.state_dict().items()} | {"aux.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_training_starts_from_the_file_and_the_frozen_body_stays(weights: Path, tmp_path: Path):
    """body_rate 0 trains the scores alone: every convolution is the file's after the training, the scores' layer is not the first one's."""
    import torch
    from safetensors.torch import load_file

    estimator = build(spec_with(3, weights, body_rate=0.0))
    estimator.fit(samples(3), samples(3), seed=1, checkpoint=tmp_path / "c", on_epoch=lambda _: None)
    given, found = load_file(weights), estimator.module.get_submodule("body").state_dict()
    assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in given.items() if tensor.ndim == 4)
    assert found["fc.weight"].shape == (2, 128)
    assert estimator.n_parameters == 128 * 2 + 2


def test_grey_images_excite_the_first_layer_as_colours_of_equal_value(weights: Path):
    import torch
    from safetensors.torch import load_file

    colour, grey = (torch.nn.Sequential(torch.nn.Conv2d(channels, 16, 3, padding=1, bias=False)) for channels in (3, 1))
    state = {"0.weight": load_file(weights)["0.weight"]}
    fill(colour, state, where="")
    fill(grey, state, where="")
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(grey(x), colour(x.expand(-1, 3, -1, -1)), atol=1e-6)


def test_trained_model_needs_the_file_no_more(weights: Path, tmp_path: Path):
    spec = spec_with(1, weights)
    first = build(spec)
    first.fit(samples(1), samples(1), seed=1, checkpoint=tmp_path / "c", on_epoch=lambda _: None)
    first.save(tmp_path)
    weights.unlink()
    again = build(spec)
    again.load(tmp_path)
    assert np.array_equal(first.scores(samples(1).all()), again.scores(samples(1).all()))


def test_missing_damaged_and_foreign_files_are_one_line(weights: Path, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    def train(path: Path) -> None:
        build(spec_with(3, path)).fit(samples(3), samples(3), seed=1, checkpoint=tmp_path / "c", on_epoch=lambda _: None)

    with pytest.raises(DataError, match=r"no readable weights; got 'absent\.safetensors'"):
        train(tmp_path / "absent.safetensors")
    (tmp_path / "pickle.safetensors").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(DataError, match="no readable weights"):
        train(tmp_path / "pickle.safetensors")
    state = load_file(weights)
    save_file({name: tensor for name, tensor in state.items() if name != "3.conv2.weight"}, tmp_path / "part.safetensors")
    with pytest.raises(DataError, match=r"weights of another network; got no 3\.conv2\.weight"):
        train(tmp_path / "part.safetensors")


@pytest.mark.parametrize(
    ("source", "name", "remedy"),
    [
        (Source("torchvision", "resnet18"), "IMAGENET1K_V1", "resnet18-f37072fd.pth"),
        (Source("timm", "inception_resnet_v2"), "tf_in1k", "timm/inception"),
    ],
    ids=["torchvision", "timm"],
)
def test_fetching_without_a_network_says_what_to_do(source: Source, name: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    def no_network(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # its own retries take half a minute
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        with pytest.raises(ServiceError) as error:
            source.read(name, where="x: pretrained")
    finally:
        torch.hub.set_dir(before)
    assert remedy in str(error.value)
    assert "path of a .safetensors file" in str(error.value)


def test_file_that_is_not_what_its_name_promises_is_refused(tmp_path: Path):
    """torchvision's file names carry a hash of the content; a file fetched by hand has to be the one."""
    import torch

    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path))
    try:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").write_bytes(b"not these")
        with pytest.raises(DataError, match="name promises"):
            Source("torchvision", "resnet18").read("IMAGENET1K_V1", where="x")
    finally:
        torch.hub.set_dir(before)
