"""Simulated MR scanners: contrast, gain, bias field, noise, voxels and the way their axes point.

No maker, model or site here exists. Field strength decides what it decides in reality: at 3 T there is more signal for the same noise, a
stronger bias field, and less difference between the T1 of grey and white matter. The unseen one is like an old low-field magnet with thick
slices: noisy, flat contrast.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MrScanner:
    """One scanner.

    Args:
        tissue: Signal of (CSF, grey matter, white matter, fat, muscle and skin, skull), white matter of the best scanner = 1.
        gain: Stored value of signal 1.
        noise: Standard deviation of the noise of each channel of the receiver, in units of signal; the magnitude is Rician.
        bias: Largest deviation of the bias field from 1 over the head.
        voxel_mm: Along the anatomical axes x, y, z.
        axes: Where the stored axes point, as in nibabel: "LAS", "PSR".
        packed: Written as .nii.gz.
        domain: `target`, or `source` for the other population that only pre-training sees.
    """

    key: str
    manufacturer: str
    model: str
    serial: str
    software: str
    field_t: float
    echo_s: float
    repetition_s: float
    tissue: tuple[float, float, float, float, float, float]
    gain: float
    noise: float
    bias: float
    voxel_mm: tuple[float, float, float]
    axes: str
    packed: bool
    domain: str = "target"
    unseen: bool = False


MR_SCANNERS: tuple[MrScanner, ...] = (
    MrScanner(
        key="mr-alpha", manufacturer="SYNTHETIC Alpha", model="Alpha 1.5T", serial="SYN-MA-01", software="AM4", field_t=1.5, echo_s=0.0035,
        repetition_s=2.4, tissue=(0.22, 0.62, 0.96, 1.25, 0.50, 0.10), gain=900.0, noise=0.045, bias=0.10, voxel_mm=(3.5, 3.5, 3.5), axes="RAS",
        packed=False,
    ),
    MrScanner(
        key="mr-beta", manufacturer="SYNTHETIC Beta", model="Beta 3T", serial="SYN-MB-02", software="BM11", field_t=3.0, echo_s=0.0029,
        repetition_s=2.3, tissue=(0.18, 0.66, 1.00, 1.35, 0.55, 0.08), gain=310.0, noise=0.025, bias=0.25, voxel_mm=(3.5, 3.5, 3.5), axes="LAS",
        packed=True,
    ),
    MrScanner(
        key="mr-gamma", manufacturer="SYNTHETIC Gamma", model="Gamma 1.5T", serial="SYN-MC-03", software="GM2", field_t=1.5, echo_s=0.0040,
        repetition_s=2.1, tissue=(0.26, 0.58, 0.90, 1.15, 0.52, 0.12), gain=2100.0, noise=0.060, bias=0.15, voxel_mm=(4.2, 3.5, 3.5), axes="PSR",
        packed=True,
    ),
    MrScanner(
        key="mr-delta", manufacturer="SYNTHETIC Delta", model="Delta Open 0.4T", serial="SYN-MD-04", software="DM1", field_t=0.4, echo_s=0.0090,
        repetition_s=0.5, tissue=(0.42, 0.60, 0.78, 1.40, 0.58, 0.14), gain=160.0, noise=0.130, bias=0.35, voxel_mm=(3.5, 3.5, 6.0), axes="LPI",
        packed=False, unseen=True,
    ),
    MrScanner(
        key="mr-epsilon", manufacturer="SYNTHETIC Alpha", model="Alpha 1T", serial="SYN-ME-05", software="AM1", field_t=1.0, echo_s=0.0045,
        repetition_s=2.0, tissue=(0.28, 0.60, 0.92, 1.20, 0.50, 0.12), gain=480.0, noise=0.055, bias=0.08, voxel_mm=(3.5, 3.5, 3.5), axes="LAS",
        packed=True, domain="source",
    ),
    MrScanner(
        key="mr-zeta", manufacturer="SYNTHETIC Beta", model="Beta 3T Neo", serial="SYN-MZ-06", software="BM20", field_t=3.0, echo_s=0.0023,
        repetition_s=2.5, tissue=(0.15, 0.68, 1.04, 1.30, 0.54, 0.08), gain=700.0, noise=0.020, bias=0.22, voxel_mm=(3.5, 3.5, 3.5), axes="RAS",
        packed=True, domain="source",
    ),
)  # fmt: skip
KNOWN = tuple(s.key for s in MR_SCANNERS if not s.unseen and s.domain == "target")
UNSEEN = tuple(s.key for s in MR_SCANNERS if s.unseen)
SOURCE = tuple(s.key for s in MR_SCANNERS if s.domain == "source")


def mr_scanner(key: str) -> MrScanner:
    """One of `MR_SCANNERS`; KeyError where there is none."""
    return {s.key: s for s in MR_SCANNERS}[key]
