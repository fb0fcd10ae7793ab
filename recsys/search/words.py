"""From text to words: one tokeniser for documents, queries and towers."""

from __future__ import annotations

import re
import unicodedata

# A decimal number is one word; elsewhere letters and digits hold together, so that a model number
# such as "ip5200" stays one.
WORD = re.compile(r"\d+(?:[.,]\d+)+|[a-z0-9]+")
MODEL = re.compile(r"(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]+")
LETTERS_OR_DIGITS = re.compile(r"[a-z]+|\d+")
# What NFKD leaves of the inch and micro signs and their look-alikes.
SIGNS = str.maketrans({"″": '"', "”": '"', "“": '"', "μ": "u", "×": "x", "ß": "ss"})
INCHES = re.compile(r'(\d)\s*"')


def words(text: str) -> list[str]:
    """Split into lower-case words, in order.

    Accents are folded, plurals lose their ending (the S-stemmer of Harman, 1991: it never maps two
    words of different meaning onto one as often as stronger stemmers do), and ``17"`` reads
    ``17 inch``. A hyphenated model number gives its parts and the whole: ``TN-2110`` is found by
    ``tn2110``, and ``ip5200`` also by ``5200``.
    """
    folded = unicodedata.normalize("NFKD", text.translate(SIGNS)).lower()
    plain = "".join(letter for letter in folded if not unicodedata.combining(letter))
    found: list[str] = []
    for chunk in INCHES.sub(r"\1 inch ", plain).split():
        parts = WORD.findall(chunk)
        found += [singular(part) for part in parts]
        joined = "".join(parts)
        if 1 < len(parts) <= 3 and "-" in chunk and MODEL.fullmatch(joined):
            found.append(joined)
        elif len(parts) == 1 and MODEL.fullmatch(joined):
            found += [part for part in LETTERS_OR_DIGITS.findall(joined) if len(part) > 2]
    return found


def singular(word: str) -> str:
    """The word without an English plural ending."""
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    return word[:-1]
