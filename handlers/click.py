"""How likely what is shown is clicked."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import polars as pl

from handlers.errors import BadRequest
from handlers.requests import ClickRequest
from handlers.stopwatch import Stopwatch
from recsys.click import load_click
from recsys.spread import ITEMS, PREDICTED, contexts


class Click:
    """Answers by a stored click model (`recsys.click`)."""

    def __init__(self, folder: Path) -> None:
        self.model = load_click(folder)
        self.features = self.model.recipe.features
        self.contexts = contexts(self.features)
        # Items are compared as if all were shown in one place.
        self.position = self.model.vocabularies["position"][0]

    def example(self) -> ClickRequest:
        """Ten items."""
        return ClickRequest(items=tuple(self.model.vocabularies["item"][:10]))

    def answer(self, requests: list[ClickRequest], watch: Stopwatch) -> list[dict | Exception]:
        """Answer each request with ``{"clicks": [{"item", "probability"}]}`` in the order asked."""
        problems = [self._problem(request) for request in requests]
        good = [r for r, problem in zip(requests, problems, strict=True) if problem is None]
        answers = iter(self._predicted(good, watch) if good else [])
        return [problem or next(answers) for problem in problems]

    def _problem(self, request: ClickRequest) -> BadRequest | None:
        for name in request.context:
            if name not in self.features:
                known = ", ".join(self.features) or "none"
                return BadRequest(f"Unknown feature {name[:50]!r}: the model's are {known}.")
        return None

    def _predicted(self, requests: list[ClickRequest], watch: Stopwatch) -> list[dict]:
        shown = [(request, item) for request in requests for item in request.items]
        columns = {
            "item": [item for _, item in shown],
            "position": [_text(self.position if r.position is None else r.position)
                         for r, _ in shown],
        }  # fmt: skip
        for name in self.features:
            columns[name] = [_text(r.context.get(name)) for r, _ in shown]
        with watch("model"):
            log = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
            chances = self.model.predict(log).tolist()
        ends = accumulate(len(request.items) for request in requests)
        return [
            {
                "clicks": [
                    {"item": item, "probability": chance}
                    for item, chance in zip(
                        request.items, chances[end - len(request.items) : end], strict=True
                    )
                ]
            }
            for request, end in zip(requests, ends, strict=True)
        ]

    @property
    def known(self) -> dict[str, int]:
        """How many items and values of each feature the model knows."""
        values = self.model.vocabularies
        known = {what: len(values[name]) for name, what in self.contexts.items()}
        return {ITEMS: len(values["item"])} | known

    def seen(self, request: ClickRequest, answer: dict) -> dict[str, list]:
        """For `handlers.spread`: what is shown, to whom and where, and how likely it is clicked."""
        places = self.model.places
        seen: dict[str, list] = {ITEMS: [places["item"].get(item, 0) - 1 for item in request.items]}
        for name, what in self.contexts.items():
            value = _text(request.context.get(name))
            seen[what] = [places[name].get(value, 0) - 1]
        # In another place other chances are no drift.
        if request.position is None:
            seen[PREDICTED] = [row["probability"] for row in answer["clicks"]]
        return seen


def _text(value: str | int | bool | None) -> str | None:
    """A value as a log's column of text has it."""
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)
