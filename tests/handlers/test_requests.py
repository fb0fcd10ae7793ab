from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.errors import BadRequest
from handlers.requests import RecommendRequest

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_defaults() -> None:
    assert RecommendRequest.parse(b'{"history": ["a", "b"]}') == RecommendRequest(
        history=("a", "b"), k=10, exclude_seen=True
    )


@pytest.mark.parametrize("wrap", [dict, json.dumps, lambda body: json.dumps(body).encode()])
def test_text_bytes_and_what_the_server_decoded_are_the_same(wrap) -> None:
    body = {"history": [], "k": 3, "exclude_seen": False}
    assert RecommendRequest.parse(wrap(body)) == RecommendRequest((), 3, False)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (None, 'The body is empty: send {"history": [item ids], "k": 10}.'),
        (b"", 'The body is empty: send {"history": [item ids], "k": 10}.'),
        (b"{", "The body is not JSON in UTF-8."),
        (b"\xff", "The body is not JSON in UTF-8."),
        (b"[" * 100_000, "The body is not JSON in UTF-8."),
        (b"[]", "The body must be a JSON object, not a list."),
        (b"null", "The body must be a JSON object, not null."),
        (b"{}", "The field history is missing: send a list of item ids, it may be empty."),
        (b'{"history": "a"}', "history must be a list of item ids, not text."),
        (b'{"history": ["a", 7]}', "history[1] must be an item id in quotes, not a number."),
        (b'{"history": [], "k": 0}', "k must be a whole number from 1 to 1000, not 0."),
        (b'{"history": [], "k": 1001}', "k must be a whole number from 1 to 1000, not 1001."),
        (b'{"history": [], "k": 2.5}', "k must be a whole number from 1 to 1000, not 2.5."),
        (b'{"history": [], "k": "9"}', "k must be a whole number from 1 to 1000, not text."),
        (
            b'{"history": [], "k": true}',
            "k must be a whole number from 1 to 1000, not true or false.",
        ),
        (
            b'{"history": [], "exclude_seen": 1}',
            "exclude_seen must be true or false, not a number.",
        ),
        (
            b'{"history": [], "n": 1}',
            "Unknown field 'n': the fields are history, k, exclude_seen.",
        ),
    ],
)
def test_bad_bodies_get_a_sentence(body, sentence: str) -> None:
    with pytest.raises(BadRequest) as error:
        RecommendRequest.parse(body)
    assert str(error.value) == sentence


@settings(max_examples=50)
@given(anything | st.fixed_dictionaries({"history": anything, "k": anything}))
def test_any_json_is_parsed_or_refused_shortly(value) -> None:
    try:
        request = RecommendRequest.parse(json.dumps(value).encode())
    except BadRequest as error:
        assert len(str(error)) < 300
    else:
        assert 1 <= request.k <= 1000
