"""Names and ids out of paths: the one place where a person may show although no header value is copied."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from components.core.imaging.deidentify import METHODS
from components.core.pseudonym import Pseudonymiser

SHORTEST = 3  # characters; a shorter word counts only as a whole part of a name, or every path would be hashed
LONGEST = 64
UID = re.compile(r"\d+(?:\.\d+){4,}")
WORDS = re.compile(r"[^\W_]+")


def word_hashes(words: Iterable[str], pseudonymiser: Pseudonymiser) -> set[tuple[str, int]]:
    """(keyed hash, length) of each word, also without its punctuation, so that words can be found again without keeping them."""
    forms = {form for word in words for form in (_plain(word), _squeezed(word))}
    return {(pseudonymiser.id("word", form), len(form)) for form in forms if 0 < len(form) <= LONGEST}


def safe_path(path: str, words: set[tuple[str, int]], pseudonymiser: Pseudonymiser) -> str:
    """`path` with every part that holds one of `words`, or a UID, replaced by a keyed hash; its suffix stays."""
    return "/".join(_safe_part(part, words, pseudonymiser) for part in path.split("/"))


def path_pseudonym(part: str, pseudonymiser: Pseudonymiser) -> str:
    """What a replaced part of a path becomes; who holds the key can find the file again."""
    return f"path-{pseudonymiser.id('path', part)}"


def provenance(pseudonymiser: Pseudonymiser) -> dict[str, Any]:
    """How the dataset was de-identified, for dataset.json: the codes of (0012,0064), and which key made the pseudonyms."""
    return {"methods": METHODS, "key_fingerprint": pseudonymiser.fingerprint, "coding_scheme": "DCM"}


def _safe_part(part: str, words: set[tuple[str, int]], pseudonymiser: Pseudonymiser) -> str:
    readable = part.isprintable() and not any("\ud800" <= c <= "\udfff" for c in part)
    if readable and not UID.search(part) and not _holds(part, words, pseudonymiser):
        return part
    suffix = re.search(r"\.(dcm|dicom|ima|xml|csv|tsv|png|jpe?g|tiff?|bmp|npz|nii(\.gz)?|txt|json)$", part, re.IGNORECASE)
    return path_pseudonym(part.encode("utf-8", "surrogateescape").hex() if not readable else part, pseudonymiser) + (
        suffix[0].lower() if suffix else ""
    )


def _holds(part: str, words: set[tuple[str, int]], pseudonymiser: Pseudonymiser) -> bool:
    lengths = {length for _, length in words}
    for text in {_plain(part), _plain(re.sub(r"[\W_]+", " ", part)), _squeezed(part)}:
        for length in lengths:
            if length >= SHORTEST:
                if any((pseudonymiser.id("word", text[i : i + length]), length) in words for i in range(len(text) - length + 1)):
                    return True
            elif any((pseudonymiser.id("word", word), length) in words for word in WORDS.findall(text) if len(word) == length):
                return True
    return False


def _squeezed(text: str) -> str:
    """Letters and digits only: "DOE^JANE" is also "Doe_Jane" and "doejane"."""
    return re.sub(r"[\W_]+", "", text).upper()


def _plain(text: str) -> str:
    return " ".join(text.split()).upper()
