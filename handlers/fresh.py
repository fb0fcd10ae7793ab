"""Recommendations that know what a user did a moment ago."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from handlers.errors import NoSessions, OtherSite, UnknownItem
from handlers.recommender import Recommender
from handlers.requests import EventsRequest, RecommendRequest, SimilarRequest, VectorRequest
from handlers.sessions import open_sessions
from handlers.stopwatch import Stopwatch


class FreshRecommender:
    """A `Recommender` beside a store of sessions, if the service was started with one.

    Parameters
    ----------
    folder
        Of the model, as `Recommender.open` takes it.
    """

    def __init__(self, folder: Path) -> None:
        self.model = Recommender.open(folder)
        self.sessions = open_sessions()
        # Of a private site's users, by user: what they did before their sessions.
        self.histories: Mapping[str, Sequence[str]] = {}

    def example(self) -> RecommendRequest:
        """A user with a long history."""
        return self.model.example()

    def answer(
        self,
        requests: list[RecommendRequest | SimilarRequest | EventsRequest | VectorRequest],
        watch: Stopwatch,
    ) -> list[dict | Exception]:
        """Store the events of a batch, then answer its other requests as `Recommender` does.

        The store is asked once, and only where a request names a user.
        """
        answers: list[dict | Exception] = [{}] * len(requests)
        writes: dict[int, EventsRequest] = {}
        reads: dict[int, RecommendRequest] = {}
        asked: dict[int, RecommendRequest | SimilarRequest | VectorRequest] = {}
        for place, request in enumerate(requests):
            if isinstance(request, EventsRequest):
                if problem := self._problem(request):
                    answers[place] = problem
                else:
                    writes[place] = request
            else:
                if isinstance(request, RecommendRequest) and request.user is not None:
                    stored = self.histories.get(request.user, ())
                    history = (*stored, *since(stored, request.history))
                    request = request.model_copy(update={"history": history})
                    reads[place] = request
                asked[place] = request
        notes: dict[int, dict] = {}
        if writes or reads:
            with watch("sessions"):
                stored, sessions = self._exchange(list(writes.values()), list(reads.values()))
            answers_to_writes = (
                stored or {"stored": len(request.events)} for request in writes.values()
            )
            for place, answer in zip(writes, answers_to_writes, strict=True):
                answers[place] = answer
            for (place, request), session in zip(reads.items(), sessions, strict=True):
                if isinstance(session, OtherSite):
                    answers[place] = session
                    del asked[place]
                elif isinstance(session, NoSessions):
                    warning = f"{session} Fresh events are missing."
                    notes[place] = {"fresh_events": 0, "warning": warning}
                else:
                    fresh = since(request.history, session)
                    notes[place] = {"fresh_events": len(fresh)}
                    history = (*request.history, *fresh)
                    asked[place] = request.model_copy(update={"history": history})
        if asked:
            found = self.model.answer(list(asked.values()), watch)
            for place, answer in zip(asked, found, strict=True):
                if isinstance(answer, dict):
                    answer |= notes.get(place, {})
                answers[place] = answer
        return answers

    def _problem(self, request: EventsRequest) -> Exception | None:
        """Why events cannot be stored; None where they can."""
        for place, event in enumerate(request.events):
            if event.item not in self.model.places:
                return UnknownItem(
                    f"The model does not know the item of events[{place}], {event.item[:50]!r}: "
                    "nothing was stored."
                )
        return self.sessions.problem(request) if self.sessions else None

    def _exchange(
        self, writes: list[EventsRequest], reads: list[RecommendRequest]
    ) -> tuple[NoSessions | None, Sequence[list[str] | OtherSite | NoSessions]]:
        """Why nothing was written, if so, and what each user did or why that is not known."""
        try:
            if self.sessions is None:
                raise NoSessions("This service keeps no events: it has no session store.")
            return None, self.sessions.exchange(writes, [request.user for request in reads])
        except NoSessions as error:
            return error, [error] * len(reads)


def since(history: Sequence[str], session: Sequence[str]) -> Sequence[str]:
    """The items of a session that a history, which may end with its first ones, lacks."""
    longest = min(len(history), len(session))
    for size in range(longest, 0, -1):
        if tuple(history[-size:]) == tuple(session[:size]):
            return session[size:]
    return session
