"""Which class a word of somebody's table means: its name, an alias of the spec or its number, in any case, as ingest reads labels."""

from __future__ import annotations

import unicodedata

from components.core.spec import Target


def class_of(target: Target, word: str) -> str | None:
    """The class's own name; None for any other word.

    Args:
        word: As it stands in the table; blanks around it do not count. A number is the class's place from 0 where no class or alias is called so.
    """
    text = _plain(word)
    known = {_plain(name): name for name in target.classes}
    known |= {_plain(alias): known[_plain(name)] for alias, name in target.aliases.items()}
    if text in known:
        return known[text]
    place = text.removesuffix(".0")
    if place.isdecimal() and place.isascii() and len(place) < 6 and int(place) < len(target.classes):
        return target.classes[int(place)]
    return None


def _plain(word: str) -> str:
    return unicodedata.normalize("NFC", word).strip().lower()
