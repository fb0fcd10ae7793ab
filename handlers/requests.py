"""What a client asks for: parsed once, strictly, before the model sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from handlers.errors import BadRequest

MOST_ITEMS = 1000
FIELDS = ("history", "k", "exclude_seen")


@dataclass(frozen=True)
class RecommendRequest:
    """Ask for items to a history.

    Attributes
    ----------
    history
        Item ids, oldest first; ids that the model does not know are passed over.
    k
        How many items to give, at most `MOST_ITEMS`.
    exclude_seen
        Whether the items of the history are left out.
    """

    history: tuple[str, ...]
    k: int = 10
    exclude_seen: bool = True

    @classmethod
    def parse(cls, body: Any) -> RecommendRequest:
        """Read the body of an HTTP request: JSON text, or what the server has decoded from it.

        Raises
        ------
        BadRequest
            It is no JSON object, or a field is unknown, missing or of the wrong kind.
        """
        fields = _decode(body)
        if not isinstance(fields, dict):
            raise BadRequest(f"The body must be a JSON object, not {_kind(fields)}.")
        for name in fields:
            if name not in FIELDS:
                known = ", ".join(FIELDS)
                raise BadRequest(f"Unknown field {name[:50]!r}: the fields are {known}.")
        return cls(
            _history(fields),
            _count(fields.get("k", cls.k)),
            _flag(fields.get("exclude_seen", cls.exclude_seen)),
        )


def _decode(body: Any) -> Any:
    if body is None or body in (b"", ""):
        raise BadRequest('The body is empty: send {"history": [item ids], "k": 10}.')
    if not isinstance(body, (bytes, bytearray, str)):
        return body
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON in UTF-8.") from None


def _history(fields: dict[str, Any]) -> tuple[str, ...]:
    if "history" not in fields:
        raise BadRequest("The field history is missing: send a list of item ids, it may be empty.")
    history = fields["history"]
    if not isinstance(history, list):
        raise BadRequest(f"history must be a list of item ids, not {_kind(history)}.")
    for place, item in enumerate(history):
        if not isinstance(item, str):
            raise BadRequest(f"history[{place}] must be an item id in quotes, not {_kind(item)}.")
    return tuple(history)


def _count(k: Any) -> int:
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST_ITEMS:
        shown = k if type(k) in (int, float) and abs(k) < 1e12 else _kind(k)
        raise BadRequest(f"k must be a whole number from 1 to {MOST_ITEMS}, not {shown}.")
    return k


def _flag(exclude_seen: Any) -> bool:
    if not isinstance(exclude_seen, bool):
        raise BadRequest(f"exclude_seen must be true or false, not {_kind(exclude_seen)}.")
    return exclude_seen


def _kind(value: Any) -> str:
    """JSON's name for a value, so that a message never echoes a large or hostile one."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
