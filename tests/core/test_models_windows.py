"""Networks over windows of worn sensors: spectra, recurrence and gait features against known values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.core.cores import wait_asleep
from components.core.errors import DataError, SpecError
from components.core.features import gait
from components.core.models import build
from components.core.spec import DiseaseSpec

wait_asleep()
RATE, SAMPLES = 40.0, 204
SPEC = Path(__file__).parents[2] / "pipelines" / "diseases" / "parkinson-fog.toml"


def spec_of(kind: str, channels: int = 9, **options: Any) -> DiseaseSpec:
    raw = json.loads(DiseaseSpec.from_toml(SPEC).to_json())
    raw["families"] = {"f": {"kind": kind, "epochs": 1, "options": options}}
    raw["default_family"] = "f"
    if channels != 9:
        raw["input"]["shape"][0] = channels
        raw["recording"] = None
    return DiseaseSpec.from_json(json.dumps(raw))


def module_of(kind: str, channels: int = 9, **options: Any) -> Any:
    return build(spec_of(kind, channels, **options)).module.cpu().eval()  # type: ignore[attr-defined]


def sine(hz: float, amplitude: float, samples: int = SAMPLES) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * hz * np.arange(samples) / RATE)


def window(*channels: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.stack(channels)[None].astype(np.float32) + np.float32(0.5))


def test_the_spectrum_is_the_fourier_transform():
    """Against numpy's FFT of the same Hann-weighted halves: the product with two matrices is the transform."""
    draw = np.random.default_rng(0)
    x = draw.random((3, 9, SAMPLES)).astype(np.float32)
    level = module_of("cnn-1d", spectrum="axis").spectra(__import__("torch").from_numpy(x)).numpy()
    assert level.shape == (3, 2, 9, 51)
    hann = np.sin(np.pi * (np.arange(102) + 0.5) / 102) ** 2
    for k, half in enumerate((x[:, :, :102], x[:, :, 102:])):
        half = half - half.mean(axis=2, keepdims=True)
        power = 2 * (np.abs(np.fft.rfft(half * hann, axis=2)[:, :, 1:52]) / hann.sum()) ** 2
        assert np.allclose(level[:, k], np.log10(power + 1e-6) / 6 + 1, atol=1e-5)


def test_a_sinusoid_stands_at_its_frequency_with_half_its_squared_amplitude():
    """5 Hz is bin 12.75 of 102 samples at 40 Hz; 10 cycles per frame is bin 10 (index 9) exactly: power 0.1^2 / 2."""
    hz = 10 * RATE / 102
    level = module_of("cnn-1d", 1, spectrum="axis").spectra(window(sine(hz, 0.1)))[0, 1, 0].numpy()
    assert level.argmax() == 9
    assert 10 ** (6 * (level[9] - 1)) == pytest.approx(0.005, rel=1e-3)


def test_the_frames_are_the_window_before_and_the_window_itself():
    """What happens in the first half shows in frame 0 only; frames end with the window."""
    burst = sine(6.0, 0.1) * (np.arange(SAMPLES) < 102)
    level = module_of("cnn-1d", 1, spectrum="axis").spectra(window(burst))[0, :, 0].numpy()
    assert level[0].max() > 0.5
    assert level[1].max() < 1e-3
    odd = module_of("cnn-1d", 1, spectrum="axis", frames=5).spectra(window(sine(6.0, 0.1) * (np.arange(SAMPLES) >= 164)))[0, :, 0].numpy()
    assert odd[4].max() > 0.5
    assert odd[:4].max() < 1e-3


def test_turning_a_sensor_leaves_the_spectrum_of_a_sensor_alone():
    draw = np.random.default_rng(1)
    x = 0.05 * draw.normal(size=(9, SAMPLES))
    turn, _ = np.linalg.qr(draw.normal(size=(3, 3)))
    turned = np.concatenate([turn @ x[k : k + 3] for k in (0, 3, 6)])
    own, axes = (module_of("cnn-1d", spectrum=how).spectra for how in ("sensor", "axis"))
    assert np.allclose(own(window(*x)), own(window(*turned)), atol=1e-4)
    assert np.abs((axes(window(*x)) - axes(window(*turned))).numpy()).max() > 0.05


def test_gain_moves_only_the_level_of_relative_spectra():
    """A strong signal, far above the floor of the logarithm."""
    x = 0.1 * np.random.default_rng(2).normal(size=(9, SAMPLES))
    front = module_of("cnn-1d", relative=True, spectrum="sensor").spectra
    one, double = front(window(*x)).numpy(), front(window(*(2 * x))).numpy()
    assert np.allclose(double[..., 1:], one[..., 1:], atol=5e-3)
    assert np.allclose(double[..., 0] - one[..., 0], np.log10(4) / 6, atol=5e-3)


def test_training_wears_the_sensor_otherwise_and_scoring_does_not():
    """A turn keeps each sensor's total power (in one frame over all axes), a gain scales it; in eval both are off."""
    import torch

    x = window(*(0.1 * np.random.default_rng(3).normal(size=(9, SAMPLES))))
    turned = module_of("cnn-1d", turn=90.0, spectrum="axis").spectra
    plain = turned(x)
    turned.train()
    torch.manual_seed(0)
    worn = turned(x)
    power = [(10 ** (6 * (level - 1)) - 1e-6).unflatten(2, (3, 3)).sum(dim=3) for level in (plain, worn)]
    assert not torch.allclose(plain, worn, atol=1e-2)
    assert torch.allclose(*power, rtol=1e-3, atol=1e-6)
    gained = module_of("cnn-1d", gain=0.5, spectrum="axis").spectra.train()
    torch.manual_seed(0)
    ratio = (10 ** (6 * (gained(x) - 1)) - 1e-6) / (10 ** (6 * (plain - 1)) - 1e-6)
    strong = plain > 0.4
    assert float(ratio[strong].std() / ratio[strong].mean()) < 1e-2
    assert abs(float(ratio[strong].mean()) - 1) > 1e-2


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_recurrence_unrolled_is_the_recurrence_stepwise(cell: str):
    """The equations of both cells, step by step in numpy with the network's own weights."""
    import torch

    module = module_of("cnn-rnn", cell=cell, frames=6, overlap=0.5, units=5)
    x = torch.rand(4, 9, SAMPLES, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = module.convolutions(module.spectra(x).flatten(0, 1)).flatten(1).unflatten(0, (-1, 6)).numpy().astype(np.float64)
        scores = module(x).numpy()
    w = {name: p.detach().numpy().astype(np.float64) for name, p in module.recurrence.named_parameters()}

    def sigmoid(v: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-v))

    h = c = np.zeros((4, 5))
    for step in range(6):
        own = features[:, step] @ w["weight_ih_l0"].T + w["bias_ih_l0"]
        back = h @ w["weight_hh_l0"].T + w["bias_hh_l0"]
        if cell == "lstm":
            i, f, g, o = np.split(own + back, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (r, z, n), (hr, hz, hn) = np.split(own, 3, axis=1), np.split(back, 3, axis=1)
            r, z = sigmoid(r + hr), sigmoid(z + hz)
            h = (1 - z) * np.tanh(n + r * hn) + z * h
    last = module.scores[-1]
    expected = h @ last.weight.detach().numpy().T + last.bias.detach().numpy()
    assert np.allclose(scores, expected, atol=1e-5)


def test_the_published_depth():
    """Eight convolutions of 16 maps and width 3 on 18 spectra: 18*16*3 + 7*16*16*3 kernels, 8*16 biases; 51 bins halved four times are 3."""
    estimator = build(spec_of("cnn-1d", maps=[16] * 8, pool=2, batch_norm=False, hidden=32, dropout=0.0, spectrum="axis"))
    convolutions = 18 * 16 * 3 + 7 * 16 * 16 * 3 + 8 * 16
    assert estimator.n_parameters == convolutions + (3 * 16 * 32 + 32) + (32 * 2 + 2)


@pytest.mark.parametrize(
    ("kind", "channels", "options", "message"),
    [
        ("cnn-1d", 4, {"spectrum": "sensor"}, "three axes"),
        ("cnn-1d", 4, {"turn": 10.0, "spectrum": "axis"}, "three axes"),
        ("cnn-1d", 9, {"frames": 64}, "frames too short"),
        ("cnn-1d", 9, {"top_hz": 0.4}, "no spectrum left"),
        ("cnn-1d", 9, {"maps": [8] * 7}, "spectra vanish"),
        ("cnn-1d", 9, {"kernel": 4}, "without a middle"),
        ("cnn-rnn", 9, {"cell": "elman"}, "lstm, gru"),
    ],
)
def test_what_the_families_cannot_do_is_said_before_training(kind: str, channels: int, options: dict[str, Any], message: str):
    with pytest.raises(SpecError, match=message):
        build(spec_of(kind, channels, **options))


@pytest.mark.parametrize("kind", ["cnn-1d", "cnn-rnn"])
def test_images_are_refused(kind: str):
    raw = json.loads(DiseaseSpec.from_toml(SPEC.with_name("lung-nodule.toml")).to_json())
    raw["families"] = {"f": {"kind": kind}}
    raw["default_family"] = "f"
    with pytest.raises(SpecError, match="takes windows; got layout 'image'"):
        build(DiseaseSpec.from_json(json.dumps(raw)))


def figure(x: np.ndarray, name: str) -> np.ndarray:
    return gait.features(x)[:, gait.NAMES.index(name)]


def test_the_freeze_index_is_the_power_of_trembling_over_that_of_steps():
    """Sines at 2 Hz and 6 Hz: amplitudes 0.1 and 0.05 have powers in the ratio 1/4; their logarithm is -0.602. Swapped it is +0.602."""
    for walking, freezing, index in ((0.1, 0.05, -0.602), (0.05, 0.1, 0.602), (0.1, 0.1, 0.0)):
        # Whole cycles in half a window of 2.56 s: 5 and 15.
        both = sine(5 / 2.55, walking) + sine(15 / 2.55, freezing)
        x = window(both, both, both).numpy()
        assert figure(x, "freeze_index_0")[0] == pytest.approx(index, abs=0.02)
        assert figure(x, "freeze_index_before_0")[0] == pytest.approx(index, abs=0.02)


def test_gait_features_have_known_values():
    x = window(*[sine(15 / 2.55, 0.1)] * 3).numpy()
    assert figure(x, "sd_0")[0] == pytest.approx(np.sqrt(3 * 0.1**2 / 2), rel=1e-3)
    assert figure(x, "peak_hz_0")[0] == pytest.approx(15 / 2.56, rel=0.01)
    assert figure(x, "share_freezing_0")[0] == pytest.approx(1.0, abs=1e-3)
    noise = window(*(0.1 * np.random.default_rng(0).normal(size=(3, SAMPLES)))).numpy()
    assert figure(noise, "entropy_0")[0] > 0.85
    assert figure(x, "entropy_0")[0] < 0.35


def test_gait_features_are_finite_and_one_column_for_each_name():
    assert len(gait.NAMES) == 42
    flat = np.full((2, 9, SAMPLES), 0.5, np.float32)
    for x in (flat, flat[:, :3], flat[:, :1], np.zeros((0, 9, SAMPLES), np.float32)):
        found = gait.features(x)
        assert found.shape == (len(x), 42)
        assert np.isfinite(found).all()
    with pytest.raises(DataError, match="1 to 3 sensors"):
        gait.features(np.zeros((1, 4, SAMPLES), np.float32))


def test_the_machines_of_a_belief_network_learn_spectra(tmp_path: Path):
    """After pre-training the first layer's inputs are standardised spectra: mean 0 and deviation 1 over the training windows, by hand."""
    import torch

    from components.core.models.samples import Samples

    estimator = build(spec_of("dbn-spectrum", spectrum="sensor", units=[8, 4], pretrain_epochs=1))
    draw = np.random.default_rng(0)
    x, y = draw.random((40, 9, SAMPLES), dtype=np.float32), np.arange(40) % 2
    samples = Samples(batch=lambda rows: x[rows], labels=y.astype(np.int64), groups=np.arange(40).astype(object))
    estimator.fit(samples, samples, seed=1, checkpoint=tmp_path / "c", on_epoch=lambda _: None)
    module = estimator.module.cpu().eval()  # type: ignore[attr-defined]
    with torch.no_grad():
        level = module_of("cnn-1d", spectrum="sensor").spectra(torch.from_numpy(x)).flatten(1)
        standard = module.machines.prepare(module.spectra(torch.from_numpy(x)))
    assert torch.allclose(standard.mean(dim=0), torch.zeros(2 * 3 * 51), atol=1e-4)
    assert torch.allclose(standard.std(dim=0, correction=0), torch.ones(2 * 3 * 51), atol=1e-3)
    assert torch.allclose(standard, (level - level.mean(dim=0)) / level.std(dim=0, correction=0), atol=1e-3)
