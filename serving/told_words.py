"""Words that a client may tell with an array, as a DICOM header would have told them: names of the vocabulary and defined terms, nothing else.

Free text is refused, not hashed: a client that reads studies as ingest does sends what its readers gave; anybody else could send a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from components.core.errors import DataError
from components.core.imaging import vocabulary
from components.core.imaging.deidentify import MODALITIES, PHOTOMETRICS
from components.core.pseudonym import Pseudonymiser

HASHED = re.compile(r"other-[0-9a-f]{8}")
MAX_LENGTH = 64


def _transfer_syntax(text: str, _: Pseudonymiser) -> str | None:
    from pydicom._uid_dict import UID_dictionary

    return text if UID_dictionary.get(text, ("", ""))[1] == "Transfer Syntax" else None


KNOWN: Mapping[str, Callable[[str, Pseudonymiser], str | None]] = MappingProxyType(
    {
        "manufacturer": vocabulary.manufacturer,
        "device_model": vocabulary.model,
        "acq_kernel": vocabulary.kernel,
        "acq_photometric": lambda text, _: text if text in PHOTOMETRICS else None,
        "acq_modality": lambda text, _: text if text in MODALITIES else None,
        "acq_transfer_syntax": _transfer_syntax,
    }
)
"""Name -> what the text is called in the log; a text that is called otherwise is not known."""
ACQUISITION = tuple(name for name in KNOWN if name.startswith("acq_"))


def word(name: str, value: Any, pseudonymiser: Pseudonymiser, where: str) -> str | None:
    """The word as it stands, if it is one that may be kept; None for nothing.

    Args:
        name: A key of `KNOWN`.
        where: The field of the request, for the error. The value itself is never repeated.

    Raises:
        DataError: Not a text, or not one that ingest would have written: a vocabulary name, a defined term, or `other-xxxxxxxx`.
    """
    if value is None:
        return None
    if (
        isinstance(value, str)
        and len(value) <= MAX_LENGTH
        and ((HASHED.fullmatch(value) and KNOWN[name] in _HASHING) or KNOWN[name](value, pseudonymiser) == value)
    ):
        return value
    raise DataError("not a known word", where=where, allowed="as ingest writes it: a name of the vocabulary, a defined term, or other-xxxxxxxx")


_HASHING = (vocabulary.manufacturer, vocabulary.model, vocabulary.kernel)
