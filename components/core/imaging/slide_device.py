"""What made a slide: the manifest's device columns out of OpenSlide's properties; the same for training and for the server."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from components.core.imaging.deidentify import device_identity, shifted_iso
from components.core.imaging.slides import Slide
from components.core.phantoms.lymph_slides_scanners import NAMES
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec

VENDORS = {"aperio": "APERIO", "hamamatsu": "HAMAMATSU", "leica": "LEICA", "philips": "PHILIPS", "ventana": "VENTANA", "trestle": "TRESTLE"}


def device_columns(slide: Slide, spec: DiseaseSpec, pseudonymiser: Pseudonymiser) -> dict[str, Any]:
    """Device, software and time columns, and `synthetic`; the key's "openslide.mpp-x" is rounded to 0.01 microns."""
    p = slide.properties
    text = p.get("openslide.comment", "") + p.get("tiff.ImageDescription", "")
    synthetic = "SYNTHETIC" in text
    key = tuple(f"{slide.mpp:.2f}" if name == "openslide.mpp-x" else p.get(name, "").strip() for name in spec.device.key)
    vendor = p.get("openslide.vendor", "")
    maker, model = p.get("tiff.Make", "").strip(), p.get("tiff.Model", "").strip()
    identity = device_identity(pseudonymiser, key=key, manufacturer=maker, model=model, software=p.get("tiff.Software", ""))
    simulated = synthetic and (maker, model) in NAMES  # the phantom's own names pass as they are
    return {
        **identity.columns(shifted_iso(_time(p), pseudonymiser)),
        "manufacturer": maker if simulated else VENDORS.get(vendor, identity.manufacturer),
        "model": model if simulated else identity.model,
        "synthetic": synthetic,
    }


def _time(properties: dict[str, str]) -> datetime | None:
    for text, form in (
        (f"{properties.get('aperio.Date', '')} {properties.get('aperio.Time', '')}", "%m/%d/%y %H:%M:%S"),
        (properties.get("tiff.DateTime", ""), "%Y:%m:%d %H:%M:%S"),
    ):
        try:
            return datetime.strptime(text.strip(), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None
