"""Simulated CT scanners: what each does to the same chest, and how each writes its files.

An image is made as physics does it: the object is blurred by the modulation transfer function of the kernel, and noise is added whose
power spectrum is that of filtered back-projection, a ramp times the squared transfer function (Riederer, Pelc and Chesler, Physics in
Medicine and Biology 1978). Calibration moves Hounsfield units about water and air; a lower tube voltage raises the contrast of calcium.

No maker, model or site here exists. Differences between the scanners are as large as those between real ones, or larger on purpose:
a phantom has to show that normalisation works, not that it is seldom needed. The unseen one is like a cone-beam scanner at low dose,
where scatter lowers Hounsfield units and the contrast of tissue against air, and the image is sharp and noisy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
EXPLICIT, RLE, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"


@dataclass(frozen=True)
class Software:
    """One software version of a scanner: in use from `since` (share of the collection's period, 0 to 1), with its own noise."""

    version: str
    since: float = 0.0
    noise: float = 1.0


@dataclass(frozen=True)
class Scanner:
    """One scanner.

    Args:
        kernel: Name in the header (0018,1210).
        cut_mm: Spatial frequency, in 1/mm, at which the kernel's transfer function has fallen to 1/e.
        steep: Steepness of that fall; 2 is a Gaussian.
        boost: Edge enhancement: the transfer function's peak lies about this share above 1.
        noise_hu: Standard deviation of the noise at `mas` and `thickness_mm`, in HU.
        gain, offset_hu: Calibration: HU' = (HU + 1000) * gain - 1000 + offset_hu.
        calcium: Contrast of calcium relative to 120 kVp.
        slope, intercept: Rescale: HU = stored * slope + intercept.
        padding: Stored value outside the reconstructed circle, None where the whole square is reconstructed.
    """

    key: str
    manufacturer: str
    model: str
    serial: str
    station: str
    software: tuple[Software, ...]
    kernel: str
    cut_mm: float
    steep: float
    boost: float
    kvp: int
    mas: tuple[int, int]
    noise_hu: float
    gain: float
    offset_hu: float
    calcium: float
    pixel_mm: tuple[float, float]
    thickness_mm: float
    spacing_mm: float
    slices: int
    transfer_syntax: str
    signed: bool
    bits_stored: int
    slope: float
    intercept: float
    padding: int | None = None
    numbering: Literal["head-first", "feet-first"] = "head-first"
    unseen: bool = False

    def software_at(self, when: float) -> Software:
        """The version in use at `when`, a share of the collection's period in [0, 1]."""
        return max((s for s in self.software if s.since <= when), key=lambda s: s.since)

    def transfer(self, size: int, pixel_mm: float) -> Floats:
        """The kernel's modulation transfer function on the half plane of `rfft2`: (size, size // 2 + 1), 1 at frequency 0."""
        f = _frequency(size, pixel_mm)
        return (
            (1 + self.boost * np.e * (f / self.cut_mm) ** 2 * np.exp(-((f / self.cut_mm) ** 2))) * np.exp(-((f / self.cut_mm) ** self.steep))
        ).astype(np.float32)

    def image(
        self, soft_hu: Floats, calcium_hu: Floats | None, *, pixel_mm: float, mas: float, software: Software, rng: np.random.Generator
    ) -> Floats:
        """What this scanner makes of an object.

        Args:
            soft_hu: (slices, size, size), HU without calcium.
            calcium_hu: (slices, size, size), HU that calcium adds at 120 kVp, or None.
            mas: Tube current times time; noise falls with its square root.

        Returns:
            (slices, size, size) HU as this scanner reports them.
        """
        from scipy.fft import irfft2, rfft2

        size = soft_hu.shape[-1]
        transfer = self.transfer(size, pixel_mm)
        ramp = _frequency(size, pixel_mm) * transfer
        # Parseval over the full plane: every column of the half plane but the first and the last stands for two.
        weight = np.full(transfer.shape[1], 2.0)
        weight[[0, -1]] = 1.0
        ramp *= np.float32(self.noise_hu * software.noise * np.sqrt(np.mean(self.mas) / mas) / np.sqrt((ramp**2 @ weight).sum() / size**2))
        body = (soft_hu + np.float32(1000)) * np.float32(self.gain) + np.float32(self.offset_hu - 1000)
        if calcium_hu is not None:
            body += calcium_hu * np.float32(self.gain * self.calcium)
        noise = rng.standard_normal(body.shape, dtype=np.float32)
        spectrum = np.asarray(rfft2(body)) * transfer + np.asarray(rfft2(noise)) * ramp
        return np.asarray(irfft2(spectrum, s=(size, size))).astype(np.float32)


def _frequency(size: int, pixel_mm: float) -> Floats:
    """Radial frequency in 1/mm on the half plane of `rfft2`."""
    return np.hypot(np.fft.fftfreq(size, pixel_mm)[:, None], np.fft.rfftfreq(size, pixel_mm)[None, :]).astype(np.float32)


SCANNERS: tuple[Scanner, ...] = (
    Scanner(
        key="alpha", manufacturer="SYNTHETIC Alpha", model="Alpha One", serial="SYN-A-0001", station="SYNCT1",
        software=(Software("A1.0"),), kernel="SYN-STANDARD", cut_mm=0.50, steep=2.0, boost=0.0,
        kvp=120, mas=(80, 160), noise_hu=26.0, gain=1.0, offset_hu=0.0, calcium=1.0,
        pixel_mm=(0.62, 0.74), thickness_mm=2.0, spacing_mm=2.0, slices=10,
        transfer_syntax=EXPLICIT, signed=False, bits_stored=12, slope=1.0, intercept=-1024.0,
    ),
    Scanner(
        key="beta", manufacturer="SYNTHETIC Beta", model="Beta 64", serial="SYN-B-0002", station="SYNCT2",
        software=(Software("B3.1"), Software("B3.2", since=0.5, noise=0.75)), kernel="SYN-LUNG", cut_mm=0.62, steep=2.6, boost=0.25,
        kvp=120, mas=(60, 120), noise_hu=45.0, gain=0.97, offset_hu=12.0, calcium=1.0,
        pixel_mm=(0.58, 0.70), thickness_mm=1.5, spacing_mm=2.0, slices=10,
        transfer_syntax=JPEG_2000, signed=True, bits_stored=16, slope=1.0, intercept=0.0, padding=-2000,
    ),
    Scanner(
        key="gamma", manufacturer="SYNTHETIC Gamma", model="Gamma Duo", serial="SYN-C-0003", station="SYNCT3",
        software=(Software("G7"),), kernel="SYN-SOFT", cut_mm=0.42, steep=2.0, boost=0.0,
        kvp=100, mas=(100, 200), noise_hu=18.0, gain=1.03, offset_hu=-10.0, calcium=1.2,
        pixel_mm=(0.66, 0.80), thickness_mm=2.5, spacing_mm=2.0, slices=10,
        transfer_syntax=RLE, signed=False, bits_stored=16, slope=1.0, intercept=-8192.0, numbering="feet-first",
    ),
    Scanner(
        key="delta", manufacturer="SYNTHETIC Delta", model="Delta Cone", serial="SYN-D-0004", station="SYNCT4",
        software=(Software("D0.9"),), kernel="SYN-EDGE", cut_mm=0.9, steep=4.0, boost=0.3,
        kvp=80, mas=(20, 40), noise_hu=180.0, gain=0.75, offset_hu=-200.0, calcium=1.5,
        pixel_mm=(0.56, 0.66), thickness_mm=1.5, spacing_mm=1.5, slices=14,
        transfer_syntax=JPEG_LS, signed=False, bits_stored=16, slope=0.5, intercept=-2048.0, unseen=True,
    ),
)  # fmt: skip
KNOWN = tuple(s.key for s in SCANNERS if not s.unseen)
UNSEEN = tuple(s.key for s in SCANNERS if s.unseen)


def scanner(key: str) -> Scanner:
    """One of `SCANNERS` by its key; KeyError where there is none."""
    return {s.key: s for s in SCANNERS}[key]
