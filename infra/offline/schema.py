"""What properties a resource type has, read from the installed Pulumi SDK.

The SDKs describe every input as an annotated property of a ``@pulumi.input_type`` class.  Such a
module takes seconds to import (aws.ec2 alone has 30 000 lines of inputs) and a plugin starts with
every ``hybrid up``, so the annotations are read from the source text, and only of types in use.
"""

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from infra.offline.errors import OfflineError
from infra.offline.wire import UNKNOWN, Secret

_GETTER = re.compile(
    r'^    @pulumi\.getter(?:\(name="(?P<name>\w+)"\))?\n'
    r"(?:    @_utilities\.deprecated\(.*?\)\n)?"
    r"    def (?P<python_name>\w+)\(self\) -> (?P<type>[^\n]+):$",
    re.MULTILINE | re.DOTALL,
)
_WRAPPERS = ("Optional", "Input")
_SCALARS = {"str": str, "bool": bool, "int": int, "float": float}
_SCALAR_NAMES = {str: "a string", bool: "a boolean", int: "a whole number", float: "a number"}


def sdk_version(package: str) -> str:
    """Version of the installed ``pulumi_<package>``, which its plugin must match."""
    return importlib.metadata.version(f"pulumi_{package}")


@dataclass(frozen=True)
class Property:
    """One property: the engine's and Python's name, its annotation and where that stands."""

    name: str
    python_name: str
    type_text: str
    source: Path

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return re.match(r"(\w+\.)*Optional\[", self.type_text) is None

    @cached_property
    def annotation(self) -> ast.expr:
        """Its type, parsed when somebody looks at it: of most properties nobody does."""
        return ast.parse(self.type_text, mode="eval").body

    @property
    def is_string(self) -> bool:
        """Whether the value is text, not something written as JSON text."""
        annotation = self.annotation
        while isinstance(annotation, ast.Subscript) and type_name(annotation) in _WRAPPERS:
            annotation = annotation.slice
        return (
            type_name(annotation) in ("str", "Union")
            or isinstance(annotation, ast.Constant)
            and (not annotation.value.endswith("Args"))
        )


@dataclass(frozen=True)
class Failure:
    """A value that does not fit: the path of the property and the reason."""

    path: str
    reason: str


def input_properties(token: str) -> dict[str, Property]:
    """Input properties of the resource type ``token``, by engine name."""
    return _resource(token)[0]


def output_names(token: str) -> tuple[str, ...]:
    """Names of everything that the resource type has once it exists, inputs included."""
    return _resource(token)[1]


@cache
def provider_properties(package: str) -> dict[str, Property]:
    """Configuration properties of the provider itself."""
    return _class_properties(_package_folder(package) / "provider.py", "ProviderArgs")


def validate(properties: dict[str, Any], schema: dict[str, Property]) -> Iterator[Failure]:
    """Yield what does not fit ``schema``: unknown names, missing ones, wrong types."""
    yield from _validate_object(properties, schema, "")


@cache
def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(f"pulumi_{package}")
    if spec is None or spec.origin is None:
        raise OfflineError(
            f"the Python package pulumi-{package} is not installed: run `make setup`"
        )
    return Path(spec.origin).parent


@cache
def _resource(token: str) -> tuple[dict[str, Property], tuple[str, ...]]:
    package, module, name = token.split(":")
    source = _source_of(package, module, name)
    text = _text(source)
    inputs = f"{name}InitArgs" if f"\nclass {name}InitArgs:" in text else f"{name}Args"
    outputs = _class_text(source, f"{name}(pulumi.CustomResource)")
    names = tuple(m["name"] or m["python_name"] for m in _GETTER.finditer(outputs))
    return _class_properties(source, inputs), names


def _source_of(package: str, module: str, name: str) -> Path:
    """File that defines a resource; the SDK generators lay them out by the token."""
    folder = _package_folder(package)
    if package == "kubernetes":  # core/v1, networking.k8s.io/v1
        group, version = module.split("/")
        return folder / group.removesuffix(".k8s.io").split(".")[0] / version / f"{name}.py"
    parts = module.split("/")
    if parts[0] != "index":
        folder = folder / parts[0]
    stem = parts[1] if len(parts) == 2 else name
    return folder / f"{_snake(stem[:1].upper() + stem[1:])}.py"  # vPNTunnel is VPNTunnel


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


@cache
def _text(source: Path) -> str:
    try:
        return source.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise OfflineError(
            f"the installed Pulumi SDK has no {source.name} in {source.parent}"
        ) from None


def _class_text(source: Path, header: str) -> str:
    text = _text(source)
    start = text.find(f"\nclass {header}:\n")
    if start < 0:
        raise OfflineError(f"the installed Pulumi SDK has no class {header} in {source}")
    following = re.compile(r"^(?:@|class |if |def |\w+ =)", re.MULTILINE).search(text, start + 8)
    return text[start : following.start() if following else len(text)]


@cache
def _class_properties(source: Path, name: str) -> dict[str, Property]:
    properties = {}
    for match in _GETTER.finditer(_class_text(source, name)):
        engine_name = match["name"] or match["python_name"]
        properties[engine_name] = Property(
            engine_name, match["python_name"], match["type"], source
        )
    return properties


def type_name(annotation: ast.expr) -> str:
    """Last part of a name: ``Input`` for ``pulumi.Input[...]``, ``str`` for ``_builtins.str``."""
    if isinstance(annotation, ast.Subscript):
        annotation = annotation.value
    if isinstance(annotation, ast.Attribute):
        return annotation.attr
    return annotation.id if isinstance(annotation, ast.Name) else ""


@cache
def fields(reference: str, source: Path) -> dict[str, Property] | None:
    """Properties of the input class that a quoted annotation names; None for another class."""
    module, _, name = reference.rpartition(".")
    if not name.endswith("Args"):
        return None  # an enumeration: its values are plain strings or numbers
    home = source.parent
    if module:  # `_meta.v1` where the file has: from ... import meta as _meta
        alias, *rest = module.split(".")
        imported = re.search(
            rf"^from (\.+)(\S*) import (\w+) as {alias}$", _text(source), re.MULTILINE
        )
        if imported is None:
            return None
        home = source.parents[len(imported[1]) - 1].joinpath(
            *filter(None, imported[2].split(".")), imported[3], *rest
        )
    inputs = home / "_inputs.py"
    return _class_properties(inputs, name)


def _validate_object(
    value: dict[str, Any], schema: dict[str, Property], path: str
) -> Iterator[Failure]:
    prefix = f"{path}." if path else ""
    for name, item in value.items():
        if name not in schema:
            close = difflib.get_close_matches(name, schema, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            yield Failure(f"{prefix}{name}", f"there is no property {name!r} here{hint}")
        elif item is not None:
            declared = schema[name]
            yield from _validate_value(item, declared.annotation, declared.source, prefix + name)
    for name, declared in schema.items():
        if declared.required and value.get(name) is None:
            yield Failure(f"{prefix}{name}", f"the property {name!r} is required")


def _validate_value(value: Any, annotation: ast.expr, source: Path, path: str) -> Iterator[Failure]:
    if isinstance(value, Secret):
        value = value.value
    if value is UNKNOWN or value is None:
        return
    if isinstance(annotation, ast.Constant):  # a forward reference: a class of inputs
        properties = fields(annotation.value, source)
        if properties is None:
            return
        if not isinstance(value, dict):
            yield Failure(path, f"expected an object, got {_describe(value)}")
        else:
            yield from _validate_object(value, properties, path)
        return
    name = type_name(annotation)
    if isinstance(annotation, ast.Subscript):
        arguments = (
            annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
        )
        if name in ("Optional", "Input"):
            yield from _validate_value(value, arguments[0], source, path)
        elif name == "Union":
            branches = [list(_validate_value(value, each, source, path)) for each in arguments]
            if all(branches):
                yield from min(branches, key=len)
        elif name == "Sequence":
            if not isinstance(value, list):
                yield Failure(path, f"expected a list, got {_describe(value)}")
            else:
                for index, item in enumerate(value):
                    yield from _validate_value(item, arguments[0], source, f"{path}[{index}]")
        elif name == "Mapping":
            if not isinstance(value, dict):
                yield Failure(path, f"expected a map, got {_describe(value)}")
            else:
                for key, item in value.items():
                    yield from _validate_value(item, arguments[1], source, f"{path}.{key}")
    elif name in _SCALARS:
        expected = _SCALARS[name]
        fits = isinstance(value, expected) and not (
            isinstance(value, bool) and expected is not bool
        )
        if not fits and not (expected is float and type(value) is int):
            yield Failure(path, f"expected {_SCALAR_NAMES[expected]}, got {_describe(value)}")


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    # The value itself may be a secret that lost its mark on the way: say only its kind.
    return _SCALAR_NAMES.get(type(value), type(value).__name__)
