from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from handlers.errors import BadRequest
from handlers.parsing import parse
from handlers.requests import (
    ClickRequest,
    EventsRequest,
    ItemsRequest,
    RecommendRequest,
    SimilarRequest,
    Where,
)

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_defaults() -> None:
    assert parse(ItemsRequest, b'{"history": ["a", "b"]}') == RecommendRequest(
        history=("a", "b"), k=10, exclude_seen=True
    )


@pytest.mark.parametrize("wrap", [dict, json.dumps, lambda body: json.dumps(body).encode()])
def test_text_bytes_and_what_the_server_decoded_are_the_same(wrap) -> None:
    body = {"history": [], "k": 3, "exclude_seen": False}
    assert parse(ItemsRequest, wrap(body)) == RecommendRequest(
        history=(), k=3, exclude_seen=False
    )


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (None, "The body is empty: send a JSON object."),
        (b"", "The body is empty: send a JSON object."),
        (b"{", "The body is not JSON in UTF-8."),
        (b"\xff", "The body is not JSON in UTF-8."),
        (b"[" * 100_000, "The body is not JSON in UTF-8."),
        (b"[]", "The body must be a JSON object, not a list."),
        (b"null", "The body must be a JSON object, not null."),
        (
            b'{"events": [{}], "user": "u"}',
            "The field events[0].item is missing: send an item id in quotes.",
        ),
        (
            b'{"events": [{"item": "a"}]}',
            "The field user is missing: send a user id in quotes, of up to 200 letters.",
        ),
        (b'{"events": [], "user": "u"}', "events must be a list of 1 to 100 events, not a list."),
        (b'{"history": "a"}', "history must be a list of item ids, not text."),
        (b'{"history": ["a", 7]}', "history[1] must be an item id in quotes, not 7."),
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
            "exclude_seen must be true or false, not 1.",
        ),
        (
            b'{"history": [], "n": 1}',
            "Unknown field 'n': the fields are history, user, k, exclude_seen, where, "
            "diversity, explain.",
        ),
        (b'{"history": [], "where": 3}', "where must be an object with filters, not 3."),
        (
            b'{"history": [], "where": {"max_price": -1}}',
            "where.max_price must be a number from 0 on, not -1.",
        ),
        (
            b'{"history": [], "where": {"categories": ["a", null]}}',
            "where.categories[1] must be a category in quotes, not null.",
        ),
        (
            b'{"history": [], "where": {"price": 1}}',
            "Unknown field 'price': the fields are in_stock, categories, min_price, max_price.",
        ),
        (
            b'{"history": [], "diversity": 1e999}',
            "diversity must be a number from 0 to 1, not a number.",
        ),
        (b'{"item": 7}', "item must be an item id in quotes, not 7."),
        (
            b'{"item": "a", "explain": true}',
            "Unknown field 'explain': the fields are item, k, where.",
        ),
    ],
)
def test_bad_bodies_get_a_sentence(body, sentence: str) -> None:
    with pytest.raises(BadRequest) as error:
        parse(ItemsRequest, body)
    assert str(error.value) == sentence


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert parse(ItemsRequest, b'{"history": [], "k": 3.0}') == RecommendRequest(history=(), k=3)


def test_a_request_with_an_item_and_no_history_asks_for_items_like_it() -> None:
    body = b'{"item": "a", "where": {"min_price": 2}}'
    assert parse(ItemsRequest, body) == SimilarRequest(item="a", where=Where(min_price=2.0))


def test_features_are_named_where_they_are_wrong() -> None:
    with pytest.raises(BadRequest) as error:
        parse(TypeAdapter(ClickRequest), b'{"items": ["a"], "context": {"hour": [1]}}')
    sentence = "context.hour must be text, a whole number, true or false, not a list."
    assert str(error.value) == sentence
    with pytest.raises(BadRequest, match="items must be a list of 1 to 1000 item ids, not a list"):
        parse(TypeAdapter(ClickRequest), b'{"items": []}')


@settings(max_examples=50)
@given(anything | st.fixed_dictionaries({"history": anything, "k": anything, "where": anything}))
def test_any_json_is_parsed_or_refused_shortly(value) -> None:
    try:
        request = parse(ItemsRequest, json.dumps(value).encode())
    except BadRequest as error:
        assert len(str(error)) < 300
    else:
        assert isinstance(request, EventsRequest) or 1 <= request.k <= 1000
