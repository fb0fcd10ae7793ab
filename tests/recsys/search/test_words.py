from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.search.words import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Batteries, LAPTOPS", ["battery", "laptop"]),
        ("Café Crème", ["cafe", "creme"]),
        ('43.2 cm (17")', ["43.2", "cm", "17", "inch"]),
        ("PIXMA iP5200", ["pixma", "ip5200", "5200"]),
        ("TN-2110", ["tn", "2110", "tn2110"]),
        ("glass bus", ["glass", "bus"]),
        ("  - ", []),
    ],
)
def test_words_of_a_shop(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@settings(max_examples=40)
@given(st.text(max_size=40))
def test_any_text_gives_plain_words_whatever_its_case(text: str) -> None:
    found = words(text)
    assert all(word and word.isascii() and word == word.lower() for word in found)
    assert words(" ".join(found)) == words(" ".join(found).upper())
