"""Property values as the engine sends them, and as Python values.

The engine's protocol carries properties as ``google.protobuf.Struct``.  Two kinds of value have no
JSON form and are marked by fixed strings: values not known before the resource exists
(:data:`UNKNOWN` here) and secrets (:class:`Secret` here).  Everything else is plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.struct_pb2 import Struct, Value

SIGNATURE_KEY = "4dabf18193072939515e22adb298388d"
SECRET_SIGNATURE = "1b47061264138c4ac30d75fd1eb44270"
UNKNOWN_VALUES = frozenset(
    {
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # boolean
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # number
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",  # string, and any output of another resource
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # array
        "030794c1-ac77-496b-92df-f27374a8bd58",  # asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # object
    }
)
UNKNOWN_STRING = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"


class Unknown:
    """The type of :data:`UNKNOWN`; there is one instance."""

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that must stay encrypted in the state; its text form hides it."""

    value: Any

    def __repr__(self) -> str:
        return "Secret(…)"


def decode(struct: Struct) -> dict[str, Any]:
    """Python values of a protobuf struct; whole numbers become ``int``."""
    return {key: _decode_value(value) for key, value in struct.fields.items()}


def _decode_value(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "string_value":
        return UNKNOWN if value.string_value in UNKNOWN_VALUES else value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    if kind == "bool_value":
        return value.bool_value
    if kind == "list_value":
        return [_decode_value(item) for item in value.list_value.values]
    if kind == "struct_value":
        fields = value.struct_value.fields
        if SIGNATURE_KEY in fields and fields[SIGNATURE_KEY].string_value == SECRET_SIGNATURE:
            return Secret(_decode_value(fields["value"]))
        return {key: _decode_value(item) for key, item in fields.items()}
    return None


def encode(properties: dict[str, Any]) -> Struct:
    """The protobuf struct of Python values; the inverse of :func:`decode`."""
    from google.protobuf.struct_pb2 import Struct

    struct = Struct()
    for key, value in properties.items():
        _encode_value(value, struct.fields[key])
    return struct


def _encode_value(value: Any, target: Value) -> None:
    if value is None:
        target.null_value = 0
    elif value is UNKNOWN:
        target.string_value = UNKNOWN_STRING
    elif isinstance(value, Secret):
        target.struct_value.fields[SIGNATURE_KEY].string_value = SECRET_SIGNATURE
        _encode_value(value.value, target.struct_value.fields["value"])
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, (int, float)):
        target.number_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, dict):
        target.struct_value.SetInParent()
        for key, item in value.items():
            _encode_value(item, target.struct_value.fields[key])
    elif isinstance(value, (list, tuple)):
        target.list_value.SetInParent()
        for item in value:
            _encode_value(item, target.list_value.values.add())
    else:
        raise TypeError(f"a property cannot hold {type(value).__name__} {value!r}")


def _map_children(value: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(value, dict):
        return {key: convert(item) for key, item in value.items()}
    if isinstance(value, list):
        return [convert(item) for item in value]
    return value


def reveal(value: Any) -> Any:
    """``value`` without its secret marks, at any depth."""
    if isinstance(value, Secret):
        return reveal(value.value)
    return _map_children(value, reveal)


def has_unknown(value: Any) -> bool:
    """Whether something in ``value`` is not known yet."""
    return value is UNKNOWN or any(map(has_unknown, _children(value)))


def has_secret(value: Any) -> bool:
    """Whether something in ``value`` is marked secret."""
    return isinstance(value, Secret) or any(map(has_secret, _children(value)))


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, Secret):
        yield value.value
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def keep_secrets(plain: Any, marked: Any) -> Any:
    """``plain`` with the secret marks that ``marked`` has at the same places.

    Where the shapes differ below a place that holds a secret, the whole value there becomes secret:
    rather too much is hidden than too little.
    """
    if isinstance(marked, Secret):
        return Secret(reveal(plain))
    if isinstance(plain, dict) and isinstance(marked, dict):
        return {key: keep_secrets(item, marked.get(key)) for key, item in plain.items()}
    if isinstance(plain, list) and isinstance(marked, list) and len(plain) == len(marked):
        return [keep_secrets(item, other) for item, other in zip(plain, marked, strict=True)]
    return Secret(reveal(plain)) if has_secret(marked) else plain


def without_nulls(value: Any) -> Any:
    """``value`` without object entries that are null: the engine treats both the same."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return _map_children(value, without_nulls)
