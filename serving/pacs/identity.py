"""UIDs that the same study, model and images always get again: a report that is stored twice is the same object, not a second one.

Made with the pseudonym key, so nobody without it can tell from a UID which study or model it stands for (PS3.5 B.2, UUID under 2.25).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from components.core.pseudonym import Pseudonymiser


@dataclass(frozen=True)
class Identity:
    """One answer: this model about these images of this study.

    Args:
        study: As the archive calls it; never kept by the loop.
        digest: Of the model package.
        images: `fingerprint` of what the answer is about.
    """

    study: str
    digest: str
    images: str
    pseudonymiser: Pseudonymiser

    def uid(self, *what: str) -> str:
        """Of an object of this answer, or of what it speaks of, e.g. `uid("report")`."""
        return f"2.25.{uuid.UUID(hex=self._hash('pacs-uid', self.images, *what), version=5).int}"

    def series(self, kind: str) -> str:
        """Of the series that takes this kind of object; an answer about more images of the study stands beside the earlier one."""
        return f"2.25.{uuid.UUID(hex=self._hash('pacs-series', kind), version=5).int}"

    def request(self, number: int) -> str:
        """Id of one sample's answer in the inference log."""
        return f"{self._hash('pacs-request', self.images)}-{number}"

    def _hash(self, domain: str, *parts: str) -> str:
        return "".join(self.pseudonymiser.id(domain, side, self.study, self.digest, *parts) for side in ("high", "low"))


def fingerprint(uids: Iterable[str], pseudonymiser: Pseudonymiser) -> str:
    """Keyed hash of a set of objects."""
    return pseudonymiser.id("pacs-images", *sorted(set(uids)))
