"""What a version must answer before anybody is sent to it: its test before service."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

from cli.errors import ServingError
from cli.serving_client import RECOMMEND, ServingClient

ITEMS = 10

Body = dict[str, Any]


def smoke_test(client: ServingClient, digest: str, archive: Path) -> str | None:
    """Ask a version at its own address, of what its archive holds.

    Returns
    -------
    str or None
        What is wrong with an answer; None if nothing is.
    """
    with zipfile.ZipFile(archive) as content:
        name = "items" if client.kind == RECOMMEND else client.kind
        known = json.loads(content.read(f"artifact/{name}.json"))
    for body in _bodies(client.kind, known):
        try:
            answer = client.predict(body, digest=digest)
        except ServingError as error:
            return str(error)
        if answer["model"] != digest:
            return f"it calls itself {answer['model']}"
        if problem := _problem(client.kind, known, body, answer):
            return problem
    return None


def _bodies(kind: str, known: Any) -> list[Body]:
    """Requests to ask: of known and of new users, words and items."""
    match kind:
        case "search":
            return [{"query": " ".join(known["vocabulary"][:5]), "k": ITEMS}]
        case "rating":
            return [{"user": user, "items": known["items"][:ITEMS]} for user in known["users"][:1]]
        case "click":
            return [{"items": known["vocabularies"]["item"][:ITEMS]}]
    histories = known[:3], []
    return [{"history": history, "k": ITEMS, "exclude_seen": True} for history in histories]


def _problem(kind: str, known: Any, body: Body, answer: Body) -> str | None:
    """What is wrong with an answer; None if nothing is."""
    match kind:
        case "search":
            return _problem_of_list(answer, known["items"], 1, ITEMS)
        case "rating":
            return _problem_of_values(answer["ratings"], "rating", body["items"])
        case "click":
            return _problem_of_values(answer["clicks"], "probability", body["items"])
    wanted = min(ITEMS, len(known) - len(body["history"]))
    left = set(known) - set(body["history"])
    return _problem_of_list(answer, left, wanted, wanted)


def _problem_of_list(answer: Body, items: Any, least: int, most: int) -> str | None:
    got = [row["item"] for row in answer["items"]]
    scores = [row["score"] for row in answer["items"]]
    if not (len(got) == len(set(got)) and least <= len(got) <= most):
        wanted = most if least == most else f"{least} to {most}"
        return f"it gives {len(set(got))} different items instead of {wanted}"
    if not all(map(math.isfinite, scores)) or scores != sorted(scores, reverse=True):
        return "its scores are not finite or not in order"
    if not set(got) <= set(items):
        return "it gives items that were seen already or that it should not know"
    return None


def _problem_of_values(rows: list[Body], name: str, items: list[str]) -> str | None:
    if [row["item"] for row in rows] != items:
        return "it gives a value for other items than it was asked about"
    if not all(math.isfinite(row[name]) for row in rows):
        return f"a {name} is not finite"
    return None
