"""Why an image cannot be used, in words that hold no value from the image."""

from __future__ import annotations

from components.core.errors import DataError


class NotUsable(DataError):
    """One image, file or series that cannot be used.

    Args:
        reason: A fixed phrase, so that reasons can be counted; never a header value.
        offset: Byte in the file where it shows, if known.
        skipped: True for what is in order but not meant here (a DICOMDIR, a report, another modality): it does not count as damage.
    """

    def __init__(self, reason: str, *, offset: int | None = None, skipped: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.offset, self.skipped = reason, offset, skipped

    def __reduce__(self) -> tuple[type[NotUsable], tuple[str], dict[str, object]]:
        return NotUsable, (self.reason,), {"offset": self.offset, "skipped": self.skipped}
