"""Names and ids out of paths: the one place where a person may show although no header value is copied.

Nothing of a path leaves ingest in clear but words of a vocabulary: any other part may be a name, a date or a number of somebody.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from components.core.imaging.deidentify import METHODS
from components.core.pseudonym import Pseudonymiser
from components.core.spec import DiseaseSpec

SHORTEST = 3  # characters; a shorter word counts only as a whole part of a name, or every path would be hashed
LONGEST = 64
SUFFIX = re.compile(
    r"(?<=.)\.(dcm|dicom|ima|xml|csv|tsv|png|jpe?g|tiff?|svs|ndpi|scn|bif|mrxs|bmp|webp|pgm|ppm|pnm|pbm|npz|nii(\.gz)?|txt|json|md)$", re.IGNORECASE
)
NAMES = frozenset((
    "anat", "annotation", "annotations", "benign", "control", "ct", "data", "dataset", "derivatives", "dicom", "dicomdir", "external", "fundus",
    "gt", "image", "images", "img", "imgs", "label", "labels", "left", "lesion_annotations", "license", "malignant", "mask", "masks",
    "metadata", "mr", "mri", "negative", "nifti", "nodule", "normal", "participants", "phantom", "photos", "pictures", "positive", "pretrain",
    "raw", "reader", "readme", "recordings", "reference", "right", "scan", "scans", "series", "slide", "slides", "source", "studies", "study",
    "test", "testing", "train", "training", "tumor", "tumour", "val", "valid", "validation", "xml",
))  # fmt: skip
"""Names of files and folders, without suffix and in small letters, that data of many hospitals share: none of them can mean a person."""
WORDS = re.compile(r"[^\W_]+")


def word_hashes(words: Iterable[str], pseudonymiser: Pseudonymiser) -> set[tuple[str, int]]:
    """(keyed hash, length) of each word, also without its punctuation, so that words can be found again without keeping them."""
    forms = {form for word in words for form in (_plain(word), _squeezed(word))}
    return {(pseudonymiser.id("word", form), len(form)) for form in forms if 0 < len(form) <= LONGEST}


def known_names(spec: DiseaseSpec) -> frozenset[str]:
    """What the disease's own file says: names of classes, other words for them, folders of external sets; letters and digits only."""
    words = {*spec.target.classes, *spec.target.aliases, *(part for e in spec.external for part in e.source.split("/"))}
    return frozenset(name for word in words if (name := _squeezed(word)))


def safe_path(path: str, words: set[tuple[str, int]], pseudonymiser: Pseudonymiser, known: frozenset[str] = frozenset()) -> str:
    """`path` with every part that no vocabulary holds replaced by a keyed hash; a usual suffix stays.

    Args:
        words: Hashes of names and ids that the source's headers and tables hold: a part that holds one is replaced too.
        known: See `known_names`.
    """
    return "/".join(_safe_part(part, words, pseudonymiser, known) for part in path.split("/"))


def path_pseudonym(part: str, pseudonymiser: Pseudonymiser) -> str:
    """What a replaced part of a path becomes; who holds the key and the source can find the file again (`dxflow quarantine`)."""
    suffix = SUFFIX.search(part)
    return f"path-{pseudonymiser.id('path', part)}" + (suffix[0].lower() if suffix else "")


def provenance(pseudonymiser: Pseudonymiser) -> dict[str, Any]:
    """How the dataset was de-identified, for dataset.json: the codes of (0012,0064), and which key made the pseudonyms."""
    return {"methods": METHODS, "key_fingerprint": pseudonymiser.fingerprint, "coding_scheme": "DCM"}


def _safe_part(part: str, words: set[tuple[str, int]], pseudonymiser: Pseudonymiser, known: frozenset[str]) -> str:
    suffix = SUFFIX.search(part)
    name = part.removesuffix(suffix[0]) if suffix else part
    usual = name.isascii() and name.lower() in NAMES
    if (usual or (name.isprintable() and _squeezed(name) in known)) and not _holds(name, words, pseudonymiser):
        return part
    return path_pseudonym(part, pseudonymiser)


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
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFC", text)).upper()


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split()).upper()
