from __future__ import annotations

import polars as pl
import pytest

from recsys.search.documents import documents, searchable


@pytest.mark.parametrize(
    ("attribute", "typed"),
    [
        ("print_technology: Laser printing", "Laser printing"),
        ("compatible with", "compatible with"),
        ("page_yield: 23000.0", ""),
        ("wi_fi: true", "wi fi"),
        ("wi_fi: No", ""),
        ("size: 20 m", "20 m"),
    ],
)
def test_of_an_attribute_only_what_people_type_is_searched(attribute: str, typed: str) -> None:
    assert searchable(attribute) == typed


def test_each_field_has_the_words_of_its_items() -> None:
    catalogue = pl.DataFrame(
        {
            "item": ["a", "b"],
            "title": ["Black printer", None],
            "attributes": [["colour: black", "weight: 3"], None],
        }
    )
    docs = documents(catalogue)
    shown = {
        name: [[docs.vocabulary[word] for word in field.of(item)] for item in (0, 1)]
        for name, field in docs.fields.items()
    }
    assert shown == {"title": [["black", "printer"], []], "attributes": [["black"], []]}
