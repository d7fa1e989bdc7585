"""What the words of a label column mean, in training's tables and in late labels alike: a class's name, an alias of the spec, or its number.

Whole numbers beside a missing one come from pandas and spreadsheets as 1.0: they are the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

from components.core.spec import Target

_WHOLE = re.compile(r"(\d{1,5})([.,]0{1,6})?", re.ASCII)


def words_of(target: Target) -> dict[str, int]:
    """{a class's name or another word for it, as `class_index` looks it up: the class's index}."""
    known = {plain(name): k for k, name in enumerate(target.classes)}
    return known | {plain(alias): known[plain(name)] for alias, name in target.aliases.items()}


def class_index(text: str, words: Mapping[str, int]) -> int | None:
    """The index that a word of a label column stands for, before anybody asks whether there is such a class; None for no class and no whole number.

    Args:
        words: As of `words_of`; they go before the number that the word may be.
    """
    word = plain(text)
    if word in words:
        return words[word]
    whole = _WHOLE.fullmatch(word)
    return words.get(whole[1], int(whole[1])) if whole else None


def class_of(target: Target, word: str) -> str | None:
    """The class's own name; None for a word that means none of them."""
    place = class_index(word, words_of(target))
    return target.classes[place] if place is not None and place < len(target.classes) else None


def plain(word: str) -> str:
    """Without regard to case, blanks around it and the way accents are spelt."""
    return unicodedata.normalize("NFC", word).strip().lower()
