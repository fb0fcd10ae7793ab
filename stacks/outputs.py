"""Outputs that are there at once, for programs that run without the engine (stacks/capture.py)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pulumi
from pulumi import _types
from pulumi.output import UNKNOWN, contains_unknowns


class Settled(pulumi.Output):
    """An output that is there already.

    Parameters
    ----------
    value
        What it holds; parts may be unknown.
    secret
        Whether it must not be shown.
    sources
        URNs of the resources whose existence it depends on.
    """

    def __init__(self, value: Any, secret: bool = False, sources: frozenset[str] = frozenset()):
        self.value, self.secret_value, self.sources = value, secret, sources

    def apply(self, func: Callable[[Any], Any], run_with_unknowns: bool = False) -> Settled:
        """What `func` makes of the value; unknown as long as the value is."""
        if not run_with_unknowns and contains_unknowns(self.value):
            return Settled(UNKNOWN, self.secret_value, self.sources)
        made = settle(func(self.value))
        return Settled(
            made.value, made.secret_value or self.secret_value, made.sources | self.sources
        )

    def future(self, with_unknowns: bool | None = None) -> Any:
        raise NotImplementedError("A captured program awaits an output: use apply instead.")


class Record(dict):
    """A nested input read back as an output, whose parts are items and attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def settle(value: Any) -> Settled:
    """An input with all outputs in it as one output."""
    if isinstance(value, Settled):
        return value
    if isinstance(value, pulumi.Resource):
        return value.urn
    if _types.is_input_type(type(value)):
        value = _types.input_type_to_dict(value)
    if isinstance(value, Mapping):
        parts = {key: settle(item) for key, item in value.items()}
        held: Any = Record((key, part.value) for key, part in parts.items())
        return _joined(held, parts.values())
    if isinstance(value, (list, tuple)):
        items = [settle(item) for item in value]
        return _joined([item.value for item in items], items)
    return Settled(value)


def _joined(value: Any, parts: Any) -> Settled:
    parts = list(parts)
    sources = frozenset().union(*(part.sources for part in parts))
    return Settled(value, any(part.secret_value for part in parts), sources)


def _all(*values: Any, **named: Any) -> Settled:
    return settle(dict(named) if named else list(values))


def _secret(value: Any) -> Settled:
    made = settle(value)
    return Settled(made.value, True, made.sources)


def _unsecret(value: Any) -> Settled:
    return Settled(value.value, False, value.sources)


def _json_dumps(value: Any, **options: Any) -> Settled:
    return settle(value).apply(lambda known: json.dumps(known, **options))


def _format(text: Any, *values: Any, **named: Any) -> Settled:
    parts = _all(text, list(values), named)
    return parts.apply(lambda known: known[0].format(*known[1], **known[2]))


def _concat(*values: Any) -> Settled:
    return _all(*values).apply(lambda known: "".join(map(str, known)))


# What stands for the SDK's own ways of making an output, by name.
MAKERS: Mapping[str, Callable[..., Settled]] = {
    "from_input": settle,
    "all": _all,
    "secret": _secret,
    "unsecret": _unsecret,
    "json_dumps": _json_dumps,
    "format": _format,
    "concat": _concat,
}
