"""What the words of a label column mean. Whole numbers beside a missing one come from pandas and spreadsheets as 1.0: they are the same."""

from __future__ import annotations

import re
from collections.abc import Mapping

_WHOLE = re.compile(r"(\d{1,5})([.,]0{1,6})?", re.ASCII)


def class_index(text: str, places: Mapping[str, int]) -> int | None:
    """The index that a word of a label column stands for, before anybody asks whether there is such a class; None for no class and no whole number.

    Args:
        places: {name of a class or another word for it, in small letters: index}; it goes before the number that the word may be.
    """
    word = text.strip().lower()
    if word in places:
        return places[word]
    whole = _WHOLE.fullmatch(word)
    return places.get(whole[1], int(whole[1])) if whole else None
