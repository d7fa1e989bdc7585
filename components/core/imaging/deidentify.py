"""What may leave a DICOM header, and as what.

DICOM PS3.15 Annex E, Basic Application Level Confidentiality Profile, by construction: nothing is copied, a fixed list of attributes is
turned into numbers, checked code strings, vocabulary names and keyed hashes. Options taken: retain device identity (made pseudonymous),
retain longitudinal temporal information with modified dates.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

from components.core.imaging import vocabulary
from components.core.pseudonym import UNKNOWN_DEVICE, Pseudonymiser

METHODS = {
    "113100": "Basic Application Confidentiality Profile",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113109": "Retain Device Identity Option",
}
"""PS3.16 CID 7050 codes of what is done here."""

SCANNER = ("Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "StationName")
"""What makes a device where a spec names columns of a table or properties of a TIFF."""

MODALITIES = frozenset(("CT", "MR", "MG", "DX", "CR", "US", "PT", "NM", "XA", "RF", "IO", "SC", "SM", "OP", "OPT", "OT", "XC", "ES", "GM"))
PHOTOMETRICS = frozenset(
    ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "XYB")
)
LONGEST_SHIFT_S = 3650 * 86_400
_YEAR, _ZONE = r"(?:19|20|21)\d\d", r"(?:Z|[+-]\d\d(?::?\d\d)?)?"
ISO = re.compile(
    rf"{_YEAR}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d{{1,6}})?)?{_ZONE})?"
    rf"|{_YEAR}\d{{4}}(?:[T ]\d{{4}}(?:\d\d(?:[.,]\d{{1,6}})?)?{_ZONE})?",
    re.ASCII,
)


@dataclass(frozen=True)
class DeviceIdentity:
    """One scanner, pseudonymously.

    Args:
        key: Keyed hash of the spec's `device.key` attributes, or "unknown" when all are empty.
        manufacturer, model: Vocabulary names, or "other-xxxxxxxx", or None.
        software: Keyed hash of the software version, or "".
        site: Keyed hash of the institution's name, or None.
    """

    key: str
    manufacturer: str | None
    model: str | None
    software: str
    site: str | None

    def columns(self, acquired_at: str | None) -> dict[str, str | None]:
        """The manifest's columns of what made a sample, and when (already shifted)."""
        return {
            "device_key": self.key,
            "manufacturer": self.manufacturer,
            "model": self.model,
            "software": self.software,
            "site": self.site,
            "acquired_at": acquired_at,
        }


NOBODY = ("", UNKNOWN_DEVICE)
"""What stands where a device should, and is none."""


def device_identity(
    pseudonymiser: Pseudonymiser, *, key: tuple[str, ...], manufacturer: str = "", model: str = "", software: str = "", site: str = ""
) -> DeviceIdentity:
    """Make the identity from header values.

    Args:
        key: Values of the spec's `device.key`, "" where absent. Where all that is there says "unknown", nobody knows the device.
    """
    return DeviceIdentity(
        key=pseudonymiser.id("device", *key) if any(part.strip().lower() not in NOBODY for part in key) else UNKNOWN_DEVICE,
        manufacturer=vocabulary.manufacturer(manufacturer, pseudonymiser),
        model=vocabulary.model(model, pseudonymiser),
        software=pseudonymiser.id("software", software) if software.strip() else "",
        site=pseudonymiser.id("site", site) if site.strip() else None,
    )


def camera_identity(pseudonymiser: Pseudonymiser, maker: str, model: str) -> DeviceIdentity:
    """The identity of a camera that only its pictures' EXIF names: all cameras of one model are one device."""
    return device_identity(pseudonymiser, key=("exif", maker, model) if maker or model else (), manufacturer=maker, model=model)


def shifted(when: datetime | None, pseudonymiser: Pseudonymiser) -> datetime | None:
    """Move a date into the past by the key's offset of 1 day to 10 years: order and distance survive, date and time of day do not."""
    if when is None:
        return None
    try:
        return when.astimezone(UTC) - timedelta(seconds=86_400 + pseudonymiser.number("date-offset", LONGEST_SHIFT_S))
    except OverflowError:  # year 1 in a header
        return None


def iso_time(text: str) -> datetime | None:
    """An ISO 8601 date or time since 1900; None when it is not one. Without a zone, UTC.

    Only the forms that mean one moment wherever they are written: 2026-11-03, 2026-11-03T10:15[:30[.5]][Z or +01:00] (a blank for the T, and
    the same without - and :). Python's parser alone would also take 1612121200000, milliseconds since 1970, for a day in 1612.
    """
    plain = text.strip()
    if not ISO.fullmatch(plain):
        return None
    try:
        found = datetime.fromisoformat(plain.replace(",", "."))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def shifted_iso(when: datetime | None, pseudonymiser: Pseudonymiser) -> str | None:
    """`shifted`, as text for the manifest."""
    at = shifted(when, pseudonymiser)
    return at.isoformat() if at else None


def when(date: str, time: str, zone: str = "") -> datetime | None:
    """A DICOM DA and TM, or a DT in `date`, as a datetime; None when it is not a whole date. Without a zone, UTC.

    Source:
        DICOM PS3.5 6.2: DA is YYYYMMDD (YYYY.MM.DD before 1993), TM is HHMMSS.FFFFFF cut at any colonless component.
    """
    plain = date.strip().replace(".", "", 2) if re.fullmatch(r"\s*\d{4}\.\d{2}\.\d{2}\s*", date) else date.strip()
    found = re.fullmatch(r"(\d{8})(\d{2})?(\d{2})?(\d{2})?(?:\.(\d{1,6}))?([+-]\d{4})?", plain)
    if not found:
        return None
    clock = re.fullmatch(r"(\d{2}):?(\d{2})?:?(\d{2})?(?:\.(\d{1,6}))?", time.strip())
    hour, minute, second, part = found.groups()[1:5]
    if hour is None and clock:
        hour, minute, second, part = clock.groups()
    offset = found[6] or zone.strip()
    try:
        minutes = (1 if offset[0] == "+" else -1) * (int(offset[1:3]) * 60 + int(offset[3:5])) if re.fullmatch(r"[+-]\d{4}", offset) else 0
        return datetime(
            int(plain[:4]), int(plain[4:6]), int(plain[6:8]), int(hour or 0), int(minute or 0), min(int(second or 0), 59),
            int((part or "0").ljust(6, "0")), tzinfo=timezone(timedelta(minutes=minutes)),
        )  # fmt: skip
    except ValueError:
        return None
