"""How users would rate items."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

from handlers.requests import RatingRequest
from handlers.stopwatch import Stopwatch
from recsys.rating import load_rating
from recsys.spread import ITEMS, PREDICTED, USERS


class Rating:
    """Answers by a stored rating model (`recsys.rating`)."""

    def __init__(self, folder: Path) -> None:
        self.model = load_rating(folder)

    def example(self) -> RatingRequest:
        """One user and ten items."""
        return RatingRequest(user=self.model.users[0], items=tuple(self.model.items[:10]))

    def answer(self, requests: list[RatingRequest], watch: Stopwatch) -> list[dict | Exception]:
        """Answer each request with ``{"ratings": [{"item", "rating"}]}`` in the order asked."""
        users = [request.user for request in requests for _ in request.items]
        items = [item for request in requests for item in request.items]
        with watch("model"):
            ratings = self.model.predict(users, items).tolist()
        ends = list(accumulate(len(request.items) for request in requests))
        return [
            {
                "ratings": [
                    {"item": item, "rating": rating}
                    for item, rating in zip(
                        request.items, ratings[end - len(request.items) : end], strict=True
                    )
                ]
            }
            for request, end in zip(requests, ends, strict=True)
        ]

    @property
    def known(self) -> dict[str, int]:
        """How many users and items the model knows."""
        return {USERS: len(self.model.users), ITEMS: len(self.model.items)}

    def seen(self, request: RatingRequest, answer: dict) -> dict[str, list]:
        """For `handlers.spread`: who asked, for what, and how that is rated."""
        items = self.model.item_index
        return {
            USERS: [self.model.user_index.get(request.user, 0) - 1],
            ITEMS: [items.get(item, 0) - 1 for item in request.items],
            PREDICTED: [row["rating"] for row in answer["ratings"]],
        }
