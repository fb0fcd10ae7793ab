"""The provider plugin: the engine's calls, answered from a table of resource types.

Nothing here knows a cloud.  A package module (``infra.offline.aws`` and so on) has two names:
``TYPES``, the table, and ``connect(configuration)``, which makes the ``api`` object that the
functions of the table get.  Both cost nothing until something is really created, read, changed or
deleted, so that an ``up`` which changes nothing stays fast.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

from infra.offline import schema
from infra.offline.errors import OfflineError, UnlistedTypeError
from infra.offline.resource import (
    Properties,
    Request,
    ResourceType,
    automatic_name,
    changes,
    creation_mark,
    is_automatic_name,
    needs_replacement,
    says_the_same,
    value_at,
    with_value_at,
)
from infra.offline.wire import (
    UNKNOWN,
    Secret,
    decode,
    encode,
    has_secret,
    keep_secrets,
    reveal,
    without_nulls,
)

# What the engine adds to the configuration of every provider.
_ENGINE_CONFIGURATION = frozenset({"version", "pluginDownloadURL", "__internal"})

# Maps where an entry that nobody declared is drift, not a default of the cloud.
_EXACT = frozenset({"tags", "tagsAll", "labels"})


def _answer(method: Callable[..., Any]) -> Callable[..., Any]:
    """Turn an exception of ``method`` into the error that the engine prints below the resource."""

    @functools.wraps(method)
    def call(self: Plugin, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request, context)
        except OfflineError as error:
            message = str(error)
        except Exception as error:  # whatever a cloud's library raises
            message = f"{type(error).__name__}: {error}"
        context.abort(grpc.StatusCode.UNKNOWN, message)

    return call


class Plugin(provider_pb2_grpc.ResourceProviderServicer):
    """Serves one package (``aws``, ``gcp``, …)."""

    def __init__(self, package: str) -> None:
        self._package = package
        self._module: ModuleType = importlib.import_module(f"infra.offline.{package}")
        self._configuration: Properties = {}
        self._connection: Any = None
        self._connecting = threading.Lock()
        self._created: set[tuple[str, str]] = set()

    # What the engine asks of the plugin itself

    @_answer
    def Handshake(self, request: Any, context: Any) -> Any:
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True)

    @_answer
    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=schema.sdk_version(self._package))

    @_answer
    def GetSchema(self, request: Any, context: Any) -> Any:
        version = schema.sdk_version(self._package)
        return provider_pb2.GetSchemaResponse(
            schema=json.dumps({"name": self._package, "version": version})
        )

    def Attach(self, request: Any, context: Any) -> Any:
        return Empty()

    def Cancel(self, request: Any, context: Any) -> Any:
        return Empty()  # what has begun is finished, so that the state stays true

    @_answer
    def CheckConfig(self, request: Any, context: Any) -> Any:
        properties = schema.provider_properties(self._package)
        failures = schema.validate(_configuration(decode(request.news), properties), properties)
        return _check_response(decode(request.news), failures)

    @_answer
    def DiffConfig(self, request: Any, context: Any) -> Any:
        # A change of endpoint or credentials moves no resource.
        old, new = decode(request.old_inputs), decode(request.news)
        return _diff_response(list(changes(without_nulls(reveal(old)), without_nulls(reveal(new)))))

    @_answer
    def Configure(self, request: Any, context: Any) -> Any:
        properties = schema.provider_properties(self._package)
        self._configuration = reveal(_configuration(decode(request.args), properties))
        self._created.clear()
        return provider_pb2.ConfigureResponse(acceptSecrets=True, supportsPreview=True)

    @_answer
    def Invoke(self, request: Any, context: Any) -> Any:
        raise UnlistedTypeError(self._package, request.tok, self._module.__name__)

    # What it asks of a resource

    @_answer
    def Check(self, request: Any, context: Any) -> Any:
        token, entry = self._entry(request.urn)
        old, new = decode(request.olds), without_nulls(decode(request.news))
        if entry.name is not None and value_at(new, entry.name) is None:
            kept = value_at(old, entry.name)
            name = kept or automatic_name(request.urn, reveal(new))
            new = with_value_at(new, entry.name, name)
        for name, value in entry.defaults.items():
            new.setdefault(name, value)
        failures = list(schema.validate(new, schema.input_properties(token)))
        known = schema.input_properties(token).keys() & new.keys()
        for name in sorted(known - entry.handled if entry.handled is not None else ()):
            failures.append(
                schema.Failure(
                    name,
                    f"the offline {self._package} plugin does not carry out {name!r} of {token}: "
                    f"add it to the entry in {self._module.__name__}, or leave it out",
                )
            )
        return _check_response(new, failures)

    @_answer
    def Diff(self, request: Any, context: Any) -> Any:
        _, entry = self._entry(request.urn)
        old = without_nulls(reveal(decode(request.old_inputs)))
        new = without_nulls(reveal(decode(request.news)))
        found = list(changes(old, new))
        replacing = {each for each in found if needs_replacement(each, entry.replace_on)}
        same_name = False
        if entry.name is not None:
            name = value_at(old, entry.name)
            # An automatic name is no obstacle: the replacement gets a new one.
            same_name = name == value_at(new, entry.name) and not is_automatic_name(
                request.urn, str(name)
            )
        return _diff_response(found, replacing, entry.delete_before_replace or same_name)

    @_answer
    def Create(self, request: Any, context: Any) -> Any:
        token, entry = self._entry(request.urn)
        marked = decode(request.properties)
        if request.preview:
            outputs = {name: UNKNOWN for name in schema.output_names(token)} | marked
            return provider_pb2.CreateResponse(properties=encode(outputs))
        inputs = reveal(marked)
        wanted = Request(request.urn, inputs, creation_mark(request.urn, inputs))
        identity, outputs = entry.create(self._api(), wanted)
        self._created.add((request.urn, identity))
        state = inputs | outputs
        try:
            if entry.configure is not None:
                state |= entry.configure(self._api(), identity, inputs, {}) or {}
            state |= entry.read(self._api(), identity, state) or {}
        except Exception as error:  # made but not complete: the engine must record it
            _abort_incomplete(context, identity, _outputs(entry, state, marked), marked, error)
        return provider_pb2.CreateResponse(
            id=identity, properties=encode(_outputs(entry, state, marked))
        )

    @_answer
    def Read(self, request: Any, context: Any) -> Any:
        token, entry = self._entry(request.urn)
        old_state, old_inputs = decode(request.properties), decode(request.inputs)
        state = reveal(old_state)
        observed = entry.read(self._api(), request.id, state)
        if observed is None:
            return provider_pb2.ReadResponse()
        outputs = {
            name: state[name]
            if name not in _EXACT and says_the_same(state.get(name), value)
            else value
            for name, value in observed.items()
            if value is not None or name in state
        }
        # Nothing declared: an import, where the observed inputs become the declared ones.
        inputs = reveal(old_inputs) or {
            name: observed[name] for name in schema.input_properties(token) if name in observed
        }
        for name in inputs.keys() & observed.keys():
            # Unchanged since it was recorded, or what was asked for: no drift.
            value = observed[name]
            exact = name in _EXACT
            asked = value == inputs[name] if exact else says_the_same(inputs[name], value)
            if not asked and value != state.get(name):
                inputs[name] = value
        return provider_pb2.ReadResponse(
            id=request.id,
            properties=encode(_outputs(entry, state | outputs, old_inputs | old_state)),
            inputs=encode(keep_secrets(without_nulls(inputs), old_inputs)),
        )

    @_answer
    def Update(self, request: Any, context: Any) -> Any:
        _, entry = self._entry(request.urn)
        old_inputs, marked = decode(request.old_inputs), decode(request.news)
        state = {
            name: value for name, value in decode(request.olds).items() if name not in old_inputs
        }
        if request.preview:
            state |= {name: UNKNOWN for name in entry.volatile} | marked
            return provider_pb2.UpdateResponse(properties=encode(state))
        inputs = reveal(marked)
        state = reveal(state) | inputs
        if entry.configure is not None:
            outputs = entry.configure(self._api(), request.id, inputs, reveal(old_inputs))
            state |= outputs or {}
        state |= entry.read(self._api(), request.id, state) or {}
        return provider_pb2.UpdateResponse(properties=encode(_outputs(entry, state, marked)))

    @_answer
    def Delete(self, request: Any, context: Any) -> Any:
        _, entry = self._entry(request.urn)
        if (request.urn, request.id) in self._created:
            return Empty()  # replaced by itself: the replacement was found by its mark
        state = reveal(decode(request.properties))
        entry.delete(self._api(), request.id, state)
        return Empty()

    def _entry(self, urn: str) -> tuple[str, ResourceType]:
        token = urn.split("::")[2].rpartition("$")[2]
        entry = self._module.TYPES.get(token)
        if entry is None:
            raise UnlistedTypeError(self._package, token, self._module.__name__)
        return token, entry

    def _api(self) -> Any:
        with self._connecting:
            if self._connection is None:
                self._connection = self._module.connect(self._configuration)
            return self._connection


def _configuration(values: Properties, properties: dict[str, schema.Property]) -> Properties:
    """Provider configuration as typed values: the engine passes all but strings as JSON text."""
    typed = {}
    for name, value in values.items():
        if name in _ENGINE_CONFIGURATION or name.startswith("__"):
            continue
        secret, plain = isinstance(value, Secret), reveal(value)
        declared = properties.get(name)
        if isinstance(plain, str) and declared is not None and not declared.is_string:
            with contextlib.suppress(ValueError):  # validation names it
                plain = json.loads(plain)
        typed[name] = Secret(plain) if secret else plain
    return typed


def _outputs(entry: ResourceType, state: Properties, marked: Properties) -> Properties:
    outputs = keep_secrets(without_nulls(state), marked)
    for name in (*entry.secrets, *(entry.derived if has_secret(marked) else ())):
        if name in outputs and not isinstance(outputs[name], Secret):
            outputs[name] = Secret(reveal(outputs[name]))
    return outputs


def _check_response(inputs: Properties, failures: Iterable[schema.Failure]) -> Any:
    return provider_pb2.CheckResponse(
        inputs=encode(inputs),
        failures=[
            provider_pb2.CheckFailure(property=failure.path, reason=failure.reason)
            for failure in failures
        ],
    )


def _diff_response(
    found: list[Any], replacing: Iterable[Any] = (), delete_before_replace: bool = False
) -> Any:
    response = provider_pb2.DiffResponse(
        changes=provider_pb2.DiffResponse.DIFF_SOME
        if found
        else provider_pb2.DiffResponse.DIFF_NONE,
        diffs=sorted({change.property for change in found}),
        replaces=sorted({change.property for change in replacing}),
        deleteBeforeReplace=delete_before_replace,
        hasDetailedDiff=True,
    )
    for change in found:
        kind = f"{change.kind}_REPLACE" if change in replacing else change.kind
        response.detailedDiff[change.path].kind = provider_pb2.PropertyDiff.Kind.Value(kind)
        response.detailedDiff[change.path].inputDiff = True
    return response


def _abort_incomplete(
    context: grpc.ServicerContext,
    identity: str,
    outputs: Properties,
    inputs: Properties,
    error: Exception,
) -> None:
    """Fail a call while handing over what exists by now, as the engine's protocol wants it."""
    detail = AnyMessage()
    detail.Pack(
        provider_pb2.ErrorResourceInitFailed(
            id=identity, properties=encode(outputs), inputs=encode(inputs), reasons=[str(error)]
        )
    )
    status = status_pb2.Status(
        code=grpc.StatusCode.UNKNOWN.value[0], message=str(error), details=[detail]
    )
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, str(error))
