"""The body of a request, parsed once, strictly, before a model sees it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from handlers.errors import BadRequest


class Strict(BaseModel):
    """A JSON object with the fields of its class and no other, each of its own kind.

    A field's description says what the value must be, up to its first colon, and after that what
    for: the sentence about a wrong value is made of it.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def parse(kind: TypeAdapter, body: Any) -> Any:
    """Read the body of a request: JSON text, or what the server has decoded from it.

    Parameters
    ----------
    kind
        Of a class derived from `Strict`, or of a union of such with a discriminator.

    Raises
    ------
    BadRequest
        It is no JSON object, or a field is unknown, missing or of the wrong kind.
    """
    if body is None or body in (b"", ""):
        raise BadRequest("The body is empty: send a JSON object.")
    if not isinstance(body, (bytes, bytearray, str)):
        body = json.dumps(body)
    try:
        return kind.validate_json(bytes(body) if isinstance(body, bytearray) else body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise BadRequest(_sentence(kind, first)) from None


@cache
def _schema(kind: TypeAdapter) -> dict[str, Any]:
    return kind.json_schema()


def _sentence(kind: TypeAdapter, error: ErrorDetails) -> str:
    if error["type"] == "json_invalid":
        return "The body is not JSON in UTF-8."
    whole = _schema(kind)
    node, place = whole, ""
    parent: dict[str, Any] = {}
    for part in error["loc"]:
        below = _below(whole, node, part)
        if below is None:
            # The name of a member of a union, or of an unknown field.
            if "oneOf" in node:
                members = (_resolved(whole, member) for member in node["oneOf"])
                node = next(member for member in members if member["title"] == part)
            elif error["type"] == "extra_forbidden":
                parent, place = node, str(part)
            continue
        parent, node = node, below
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            place += f".{part}" if place else part
    if not place:
        return f"The body must be a JSON object, not {_kind(error['input'])}."
    if error["type"] == "extra_forbidden":
        known = ", ".join(parent["properties"])
        return f"Unknown field {place[:50]!r}: the fields are {known}."
    wanted = node.get("description", "of another kind").partition(":")[0]
    if error["type"] == "missing":
        return f"The field {place[:50]} is missing: send {wanted}."
    value = error["input"]
    short = type(value) in (int, float) and abs(value) < 1e12
    return f"{place[:50]} must be {wanted}, not {value if short else _kind(value)}."


def _below(whole: dict, node: dict, part: int | str) -> dict[str, Any] | None:
    """The schema of a part of what `node` describes; None where it describes no such part."""
    if isinstance(part, int):
        below = node.get("items")
    else:
        below = node.get("properties", {}).get(part) or node.get("additionalProperties")
    return _resolved(whole, below) if isinstance(below, dict) else None


def _resolved(whole: dict, node: dict) -> dict[str, Any]:
    """The schema itself, with its own description, of one that refers to it or may be null."""
    for member in node.get("anyOf", ()):
        if member.get("type") != "null":
            return _resolved(whole, member) | {k: v for k, v in node.items() if k != "anyOf"}
    if "$ref" in node:
        target = whole["$defs"][node["$ref"].rpartition("/")[2]]
        return target | {k: v for k, v in node.items() if k != "$ref"}
    return node


def _kind(value: Any) -> str:
    """JSON's name for a value, so that a message never echoes a large or hostile one."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
