"""What the stacks' programs declare, found out in this process without the engine.

The programs run as they are. Underneath, registering a resource only notes it, and an output is a
value that is there at once instead of four futures: the SDK's own way through an event loop,
protobuf and the types of every property takes some hundred times as long. The engine remains the
judge of what happens; tests compare what it plans with what is found here.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import pulumi
import pulumi.resource
from pulumi import _types
from pulumi.output import UNKNOWN as SDK_UNKNOWN

from infra.resources import Declared, Recorded
from infra.offline import schema
from infra.offline.wire import UNKNOWN, Secret
from stacks.outputs import MAKERS, Record, Settled, settle
from stacks.settings import Settings

ORGANISATION = "organization"
Properties = dict[str, Any]


class _Reference:
    """Stands for StackReference: outputs as captured, else as recorded in that stack's state."""

    def __init__(self, name: str, outputs: Mapping[str, Mapping[str, Any]]) -> None:
        self._outputs = outputs.get(name.rpartition(".")[2], {})

    def get_output(self, name: str) -> Settled:
        return settle(self._outputs.get(name))


class Capture:
    """Runs the programs of one environment's layers, in the order of their dependence.

    Parameters
    ----------
    environment, settings
        Which programs.
    recorded
        What the state holds, by URN: gives existing resources their ids and outputs.

    Attributes
    ----------
    declared
        Every resource, in the order in which it was registered.
    """

    def __init__(
        self, environment: str, settings: Settings, recorded: Mapping[str, Recorded] | None = None
    ) -> None:
        self._environment, self._settings = environment, settings
        self._recorded = recorded or {}
        self._layer = ""
        self._outputs: dict[str, dict[str, Settled]] = {}
        self.declared: list[Declared] = []

    def run(self, layers: tuple[str, ...]) -> list[Declared]:
        """Run the programs of some layers; whatever a program raises comes through."""
        for layer in layers:
            program = importlib.import_module(f"stacks.{layer}").program
            self.run_program(layer, lambda: program(self._environment, self._settings))
        return self.declared

    def run_program(self, layer: str, program: Callable[[], Any]) -> None:
        """Run one program as the stack of a layer."""
        self._layer, self._outputs[layer] = layer, {}
        pulumi.runtime.configure(
            pulumi.runtime.Settings(
                project="hybrid",
                stack=f"{self._environment}.{layer}",
                dry_run=True,
                organization=ORGANISATION,
            )
        )
        with ExitStack() as stack:
            for owner, names in self._replacements():
                stack.enter_context(_replaced(owner, names))
            program()

    def _replacements(self) -> Iterator[tuple[Any, dict[str, Any]]]:
        yield pulumi.Output, {name: staticmethod(made) for name, made in MAKERS.items()}
        yield (
            pulumi.resource,
            {
                "register_resource": self._register,
                "register_resource_outputs": lambda resource, outputs: None,
                "read_resource": self._read,
                "get_root_resource": lambda: None,
            },
        )
        yield (
            pulumi,
            {
                "export": self._export,
                "StackReference": lambda name: _Reference(name, self._outputs),
            },
        )

    def _export(self, name: str, value: Any) -> None:
        self._outputs[self._layer][name] = settle(value)

    def _read(self, resource: pulumi.Resource, kind: str, name: str, *rest: Any) -> None:
        raise NotImplementedError(f"{kind} {name!r} is read from its cloud, which needs the engine")

    def _register(
        self,
        resource: pulumi.Resource,
        kind: str,
        name: str,
        custom: bool,
        remote: bool,
        new_dependency: Any,
        props: Properties,
        opts: pulumi.ResourceOptions,
        typ: type | None,
        package: Any,
    ) -> None:
        """Note one resource; the signature is that of the SDK's function."""
        parent = opts.parent.urn.value if opts.parent is not None else None
        urn = self._urn(kind, name, parent)
        recorded = self._recorded.get(urn)
        known = _property_table(kind) if custom else {}
        here = frozenset([urn])
        secret = frozenset(map(_camel, opts.additional_secret_outputs or ()))
        attributes = resource.__dict__
        attributes["urn"] = Settled(urn, sources=here)
        if custom:
            attributes["id"] = Settled(recorded.id if recorded else SDK_UNKNOWN, sources=here)
        inputs: Properties = {}
        sources: dict[str, frozenset[str]] = {}
        for key, value in props.items():
            described = known.get(key)
            engine_name = described.name if described else _camel(key)
            if value is None:
                if key not in attributes:
                    attributes[key] = _output(recorded, engine_name, engine_name in secret, here)
                continue
            given = settle(value)
            attributes[key] = given
            plain = _plain(value)
            if described is not None and isinstance(plain, (dict, list, Secret)):
                plain = _translated(plain, described.annotation, described.source)
            inputs[engine_name] = plain
            sources[engine_name] = given.sources
        ignored = frozenset(_camel(path) for path in opts.ignore_changes or ())
        self.declared.append(
            Declared(self._layer, kind, name, urn, custom, inputs, sources, ignored)
        )

    def _urn(self, kind: str, name: str, parent: str | None) -> str:
        qualified = f"{parent.split('::')[2]}${kind}" if parent else kind
        return f"urn:pulumi:{self._environment}.{self._layer}::hybrid::{qualified}::{name}"


def _output(recorded: Recorded | None, name: str, secret: bool, here: frozenset[str]) -> Settled:
    """An output that no input determines: known if the state has it in clear."""
    value = recorded.outputs.get(name, SDK_UNKNOWN) if recorded else SDK_UNKNOWN
    return Settled(_for_program(value), secret or isinstance(value, Secret), here)


@contextmanager
def _replaced(owner: Any, names: Mapping[str, Any]) -> Iterator[None]:
    """Give attributes other values for a while."""
    before = {name: vars(owner)[name] for name in names}
    try:
        for name, value in names.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


@cache
def _property_table(kind: str) -> dict[str, schema.Property]:
    """Input properties of a resource type by their Python names; empty for the engine's own."""
    package, module, name = kind.split(":")
    if package == "pulumi" and module == "providers":
        found = schema.provider_properties(name)
    elif package == "pulumi":
        return {}
    else:
        found = schema.input_properties(kind)
    return {described.python_name: described for described in found.values()}


def _plain(value: Any) -> Any:
    """An input with its secrets and unknowns marked, its keys as the program wrote them."""
    if isinstance(value, Settled):
        plain = _plain(value.value)
        return Secret(plain) if value.secret_value else plain
    if value is SDK_UNKNOWN:
        return UNKNOWN
    if isinstance(value, pulumi.Resource):
        return value.urn.value
    if isinstance(value, (pulumi.FileAsset, pulumi.FileArchive)):
        return {"path": value.path}
    if isinstance(value, pulumi.StringAsset):
        return {"text": value.text}
    if _types.is_input_type(type(value)):
        value = _types.input_type_to_dict(value)
    if isinstance(value, Mapping):
        plain = ((key, _plain(item)) for key, item in value.items())
        return {key: item for key, item in plain if item is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _for_program(value: Any) -> Any:
    """A recorded output as programs see it: what is secret or sealed is unknown to them."""
    if isinstance(value, Secret) or value is UNKNOWN:
        return SDK_UNKNOWN
    if isinstance(value, dict):
        made = Record()
        for key, item in value.items():
            made[key] = made[_snake(key)] = _for_program(item)
        return made
    return [_for_program(item) for item in value] if isinstance(value, list) else value


def _translated(value: Any, annotation: ast.expr, source: Any) -> Any:
    """The value with the engine's names for keys that are properties; keys of maps stay."""
    if isinstance(value, Secret):
        return Secret(_translated(value.value, annotation, source))
    if not isinstance(value, (dict, list)):
        return value
    if isinstance(annotation, ast.Constant):
        fields = schema.fields(annotation.value, source) or {}
        by_python = {described.python_name: described for described in fields.values()}
        translated = {}
        for key, item in value.items():
            described = by_python.get(key) or fields.get(key)
            if described is None:
                translated[key] = item
            else:
                if isinstance(item, (dict, list, Secret)):
                    item = _translated(item, described.annotation, described.source)
                translated[described.name] = item
        return translated
    if not isinstance(annotation, ast.Subscript):
        return value
    inner = annotation.slice
    branches = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    name = schema.type_name(annotation)
    if name == "Sequence" and isinstance(value, list):
        return [_translated(item, branches[0], source) for item in value]
    if name == "Mapping" and isinstance(value, dict):
        return {key: _translated(item, branches[1], source) for key, item in value.items()}
    if name in ("Optional", "Input"):
        return _translated(value, branches[0], source)
    if name == "Union":
        return _translated(value, branches[0], source)
    return value


@cache
def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part[:1].upper() + part[1:] for part in rest)


@cache
def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
