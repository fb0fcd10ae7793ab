"""TorchServe handler of the model `recommend`.

POST {"history": [item ids], "k": 10, "exclude_seen": true} gives
{"items": [{"item": id, "score": number}], "model": digest}; a bad request gives {"error": sentence}
with a 4xx status and leaves the other requests of its batch alone.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ts.context import Context


class RecommendHandler:
    """The one class that TorchServe finds here: it speaks HTTP, `Recommender` does the rest.

    Imports are inside the methods: TorchServe takes an ImportError of this file for a missing
    handler and hides its cause.
    """

    def initialize(self, context: Context) -> None:
        """Load the model from the unpacked archive."""
        from handlers.recommender import Recommender

        folder = Path(context.system_properties["model_dir"])
        self.digest = f"sha256:{context.manifest['model']['modelVersion']}"
        self.recommender = Recommender(folder / "artifact")

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[bytes]:
        """Answer a batch of requests, in their order."""
        from handlers.errors import BadRequest
        from handlers.requests import RecommendRequest

        answers: list[dict[str, Any]] = [{} for _ in data]
        good: dict[int, RecommendRequest] = {}
        for place, row in enumerate(data):
            try:
                good[place] = RecommendRequest.parse(row.get("body", row.get("data")))
            except BadRequest as error:
                answers[place] = {"error": str(error)}
                context.set_response_status(error.status, "Bad Request", place)
        for place, answer in zip(good, self._answer(list(good.values())), strict=True):
            answers[place] = answer
            if "error" in answer:
                context.set_response_status(500, "Internal Server Error", place)
        for place in range(len(data)):
            context.set_response_content_type(place, "application/json")
        return [json.dumps(answer, allow_nan=False).encode() for answer in answers]

    def _answer(self, requests: list) -> list[dict[str, Any]]:
        if not requests:
            return []
        try:
            found = self.recommender.recommend(requests)
        except MemoryError:
            raise  # TorchServe answers 507
        except Exception:
            # Whatever goes wrong in the model, the worker stays up and clients get an answer.
            logging.exception("The model failed on a batch of %d requests", len(requests))
            sentence = "The model failed on this request; its log tells why."
            return [{"error": sentence}] * len(requests)
        return [
            {
                "items": [{"item": item, "score": score} for item, score in items],
                "model": self.digest,
            }
            for items in found
        ]
