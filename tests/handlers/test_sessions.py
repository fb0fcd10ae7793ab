"""What users did of late changes answers: on a real Redis or Valkey."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ts.context import Context, RequestProcessor

from cli.sessions import session_store_program
from handlers.errors import BadRequest, NoSessions, OtherSite, UnknownItem
from handlers.fresh import FreshRecommender, since
from handlers.requests import Event, EventsRequest, RecommendRequest
from handlers.service import Service
from handlers.sessions import open_sessions
from handlers.stopwatch import Stopwatch
from tests.handlers.session_store import SessionStore

needs_store = pytest.mark.skipif(
    session_store_program() is None, reason="there is neither redis-server nor valkey-server"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionStore]:
    server = SessionStore(tmp_path_factory.mktemp("sessions"))
    server.start()
    yield server
    server.end()


@pytest.fixture(scope="module")
def model(server: SessionStore, artifact: Path) -> FreshRecommender:
    model = FreshRecommender(artifact)
    model.sessions = open_sessions(server.variables)
    return model


@pytest.fixture(autouse=True)
def nothing_stored(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        request.getfixturevalue("server").client.flushdb()


def ask(model: FreshRecommender, *requests):
    return model.answer(list(requests), Stopwatch())


def did(*items: str, user: str = "u", **more) -> EventsRequest:
    events = tuple(Event(item=item) for item in items)
    return EventsRequest(user=user, events=events, **more).sent_as(str(time.monotonic_ns()))


def items(answer: dict) -> list[str]:
    """Without scores, whose last digits depend on the size of the batch."""
    return [row["item"] for row in answer["items"]]


def session(model: FreshRecommender, user: str = "u") -> list[str] | OtherSite:
    return model.sessions.exchange([], [user])[0]


@needs_store
def test_the_next_answer_is_the_one_to_the_longer_history(model: FreshRecommender) -> None:
    question = RecommendRequest(history=("item-1",), user="u")
    (before,) = ask(model, question)
    # Events of a batch are known to all of it, and to their own user only.
    stored, after, other = ask(
        model, did("item-2", "item-3"), question, question.model_copy(update={"user": "v"})
    )
    (told,) = ask(model, RecommendRequest(history=("item-1", "item-2", "item-3")))
    assert stored == {"stored": 2}
    assert after["fresh_events"] == 2 and items(after) == items(told) != items(before)
    assert other["fresh_events"] == 0 and items(other) == items(before)
    (without,) = ask(model, RecommendRequest(user="u"))
    assert without["fresh_events"] == 2


@needs_store
def test_events_come_twice_and_in_any_order_and_the_latest_stay(
    model: FreshRecommender, server: SessionStore
) -> None:
    now = time.time()
    late = [Event(item=f"item-{n}", time=now - n, id=f"e{n}") for n in (1, 3, 2)]
    for event in [*late, *late]:
        ask(model, EventsRequest(user="u", events=(event,)))
    assert session(model) == ["item-3", "item-2", "item-1"]
    ask(model, *[did(f"item-{n}") for n in range(4, 8)])
    assert session(model) == ["item-1", "item-4", "item-5", "item-6", "item-7"]
    assert server.client.zcard("session:u") == 5
    assert 0 < server.client.ttl("session:u") <= 3600


@needs_store
def test_an_event_counts_until_it_expires(
    model: FreshRecommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(model, did("item-1"))
    later = time.time() + 3000
    monkeypatch.setattr(time, "time", lambda: later)
    ask(model, did("item-2"))
    assert session(model) == ["item-1", "item-2"]
    monkeypatch.setattr(time, "time", lambda: later + 1000)
    assert session(model) == ["item-2"]


@needs_store
@pytest.mark.parametrize("seconds", [5, 1_000_000])
def test_after_a_clock_was_put_back_the_latest_events_stay_in_their_order(
    model: FreshRecommender, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    ask(model, did("item-1", "item-2", "item-3"))
    earlier = time.time() - seconds
    monkeypatch.setattr(time, "time", lambda: earlier)
    assert ask(model, did("item-4", "item-5")) == [{"stored": 2}]
    assert session(model) == [f"item-{n}" for n in range(1, 6)]
    for n in (6, 7, 8):
        ask(model, did(f"item-{n}"))
    # Five are kept.
    assert session(model) == [f"item-{n}" for n in range(4, 9)]
    monkeypatch.setattr(time, "time", lambda: earlier + 3600 + 10)
    assert session(model) == []


@needs_store
def test_events_with_and_without_a_time_come_in_their_order(model: FreshRecommender) -> None:
    now = time.time()
    ask(model, EventsRequest(user="u", events=(Event(item="item-1", time=now + 30, id="a"),)))
    ask(model, did("item-2"))
    ask(model, EventsRequest(user="u", events=(Event(item="item-3", time=now - 30, id="b"),)))
    assert session(model) == ["item-3", "item-1", "item-2"]


@needs_store
def test_what_cannot_be_stored_is_named_and_nothing_of_it_is_stored(
    model: FreshRecommender, server: SessionStore
) -> None:
    now = time.time()
    unknown, old, ahead, good = ask(
        model,
        did("item-1", "x"),
        EventsRequest(user="u", events=(Event(item="item-1", time=now - 4000),)),
        EventsRequest(user="u", events=(Event(item="item-1", time=now + 4000),)),
        did("item-2", user="v"),
    )
    assert isinstance(unknown, UnknownItem)
    assert str(unknown) == (
        "The model does not know the item of events[1], 'x': nothing was stored."
    )
    assert isinstance(old, BadRequest) and "more than 3600 seconds ago" in str(old)
    assert isinstance(ahead, BadRequest) and "in the future" in str(ahead)
    assert good == {"stored": 1}
    assert server.client.keys() == [b"session:v"]


@needs_store
def test_what_is_private_to_a_site_is_neither_written_nor_read_elsewhere(
    model: FreshRecommender, server: SessionStore
) -> None:
    refused, stored = ask(
        model, did("item-1", residency="lyon"), did("item-2", user="v", residency="berlin")
    )
    assert isinstance(refused, OtherSite)
    assert str(refused) == (
        'The user\'s events are labelled private to "lyon" and must not leave that site, and this '
        "service stands at berlin: ask the service of that site."
    )
    assert stored == {"stored": 1} and server.client.keys() == [b"session:v"]
    ask(model, did("item-3", user="w"))  # labelled with the site at which it was posted
    # A service in the cloud that reaches the site's store.
    cloud = open_sessions(server.variables | {"HYBRID_SESSIONS_SITE": ""})
    for answer in cloud.exchange([], ["v", "w"]):
        assert isinstance(answer, OtherSite) and "stands at no site" in str(answer)
    model.sessions, own = cloud, model.sessions
    try:
        refused, answered = ask(model, RecommendRequest(user="v"), RecommendRequest(user="z"))
    finally:
        model.sessions = own
    assert isinstance(refused, OtherSite) and answered["fresh_events"] == 0


@needs_store
def test_a_batch_costs_one_transaction_and_none_where_nobody_is_named(
    model: FreshRecommender, server: SessionStore
) -> None:
    def transactions() -> int:
        return server.client.info("commandstats").get("cmdstat_exec", {"calls": 0})["calls"]

    before = transactions()
    ask(model, *[did("item-1", user=f"u{n}") for n in range(3)], RecommendRequest(user="u1"))
    assert transactions() == before + 1
    ask(model, RecommendRequest(history=("item-1",)))
    assert transactions() == before + 1


@needs_store
def test_without_its_store_it_recommends_on_and_afterwards_knows_again(
    model: FreshRecommender, server: SessionStore
) -> None:
    question = RecommendRequest(history=("item-1",), user="u")
    (plain,) = ask(model, RecommendRequest(history=("item-1",)))
    assert ask(model, did("item-2")) == [{"stored": 1}]
    server.end()
    refused, answer = ask(model, did("item-2"), question)
    assert isinstance(refused, NoSessions) and refused.status == 503
    assert items(answer) == items(plain) and answer["fresh_events"] == 0
    assert answer["warning"] == "The session store does not answer. Fresh events are missing."
    server.start()
    stored, answer = ask(model, did("item-2"), question)
    assert stored == {"stored": 1} and answer["fresh_events"] == 1


@needs_store
def test_a_store_that_hangs_is_left_alone_for_a_while(
    model: FreshRecommender, server: SessionStore
) -> None:
    server.process.send_signal(signal.SIGSTOP)
    try:
        (hung,) = ask(model, did("item-1"))
    finally:
        server.process.send_signal(signal.SIGCONT)
    assert isinstance(hung, NoSessions)
    assert model.sessions.asleep_until > 0
    model.sessions.asleep_until = time.monotonic() + 1000
    assert isinstance(ask(model, did("item-2"))[0], NoSessions)
    model.sessions.asleep_until = 0.0
    assert ask(model, did("item-3")) == [{"stored": 1}]


@needs_store
def test_a_request_that_the_proxy_repeats_is_stored_once(
    server: SessionStore, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in server.variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "artifact").symlink_to(artifact)
    manifest = {"model": {"modelVersion": "a" * 64}}
    context = Context("recommend", str(tmp_path), manifest, 4, None, "0.12")
    handler = Service()
    handler.initialize(context)
    body = bytearray(b'{"user": "u", "events": [{"item": "item-1"}, {"item": "item-1"}]}')
    seen = []
    for name in ("r1", "r1", "r2"):
        context.request_processor = [RequestProcessor({"X-Request-Id": name})]
        (answer,) = handler.handle([{"body": body}], context)
        assert json.loads(answer)["stored"] == 2
        seen.append(server.client.zrange("session:u", 0, -1, withscores=True))
    assert seen[0] == seen[1] == seen[2][:2] and len(seen[2]) == 4
    body = body.replace(b'"u",', b'"u", "residency": "lyon",')
    context.request_processor = [RequestProcessor({})]
    (answer,) = handler.handle([{"body": body}], context)
    assert context.get_response_status(0) == (421, "Misdirected Request")


def test_a_service_without_a_store_says_so(artifact: Path) -> None:
    model = FreshRecommender(artifact)
    refused, answer = ask(model, did("item-1"), RecommendRequest(user="u"))
    assert isinstance(refused, NoSessions)
    assert str(refused) == "This service keeps no events: it has no session store."
    assert answer["warning"].startswith(str(refused)) and answer["items"]


@settings(max_examples=50)
@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_no_event_is_appended_that_the_history_ends_with(history, events) -> None:
    fresh = list(since(history, events))
    known = events[: len(events) - len(fresh)]
    assert known + fresh == events
    assert history[len(history) - len(known) :] == known
    assert list(since([*history, *events], events)) == []
