"""Items to a query, by words and by meaning."""

from __future__ import annotations

from pathlib import Path

from handlers.errors import BadRequest
from handlers.requests import SearchRequest
from handlers.stopwatch import Stopwatch
from recsys.search.ranker import load_search
from recsys.search.words import words
from recsys.spread import LENGTH, SCORES, TOP, WORDS


class Search:
    """Answers queries by a stored search model (`recsys.search`)."""

    def __init__(self, folder: Path) -> None:
        self.model = load_search(folder)
        self.places = {word: place for place, word in enumerate(self.model.docs.vocabulary)}

    def example(self) -> SearchRequest:
        """Five words of the catalogue."""
        return SearchRequest(query=" ".join(self.model.docs.vocabulary[:5]))

    def answer(
        self, requests: list[SearchRequest], watch: Stopwatch
    ) -> list[dict | Exception]:
        """Answer each query with ``{"items": [{"item", "score"}]}``, the best first."""
        with watch("search"):
            return [self._found(request) for request in requests]

    def _found(self, request: SearchRequest) -> dict | Exception:
        if not words(request.query):
            return BadRequest("query has no word to search for: send letters or digits.")
        found = self.model.search(request.query, request.k)
        return {"items": [{"item": row.item, "score": row.score} for row in found]}

    @property
    def known(self) -> dict[str, int]:
        """How many words the catalogue has."""
        return {WORDS: len(self.places)}

    def seen(self, request: SearchRequest, answer: dict) -> dict[str, list]:
        """For `handlers.spread`: the query's words, how many, and the scores of the first results."""
        typed = words(request.query)
        return {
            WORDS: [self.places.get(word, -1) for word in typed],
            LENGTH: [len(typed)],
            SCORES: [row["score"] for row in answer["items"][:TOP]],
        }
