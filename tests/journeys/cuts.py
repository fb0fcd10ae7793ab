"""An `up` that dies after any one of its calls, without the cost of an engine.

The programs of the layers run once, under Pulumi's mocks, against the real offline plugins, moto
within this process and fake-gcs-server: this gives the resources in an order in which the engine
may make them. Then the same is done again, and after each call to AWS or GCS a copy of the process
(a fork, so AWS is copied too) takes it that everything died there. What the engine has in its state
by then is `recorded`; the resource in work is not among it. GCS is not copied: what a copy of the
process removed there is put back after it.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import botocore.client
import httpx
import pulumi
from botocore.exceptions import ClientError
from pulumi.runtime.proto import provider_pb2

from infra.offline.gcp import CloudStorage
from infra.offline.plugin import Plugin
from infra.offline.wire import SIGNATURE_KEY, decode, encode, reveal
from stacks.providers import SERVICES
from stacks.settings import Settings

REGION = "eu-central-1"


@dataclass(frozen=True)
class Step:
    """The creation of one resource: its inputs are known, since the steps before it are done."""

    layer: str
    urn: str
    inputs: dict[str, Any]
    outputs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Resource:
    """What the engine has in its state."""

    step: Step
    identity: str
    properties: dict[str, Any]


class _Context:
    """What gRPC gives a plugin; a refusal becomes an exception."""

    def abort(self, code: Any, message: str) -> None:
        raise AssertionError(message)

    def set_trailing_metadata(self, metadata: Any) -> None:
        return None


@dataclass
class Cloud:
    """The offline plugins, once for each layer, and what has been made through them.

    Plugins and their configurations stand under ``layer.package``.
    """

    configurations: dict[str, dict[str, Any]]
    recorded: list[Resource] = field(default_factory=list)
    plugins: dict[str, Plugin] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)

    def make(self, step: Step) -> Resource:
        """Create a resource and record it; ids of the first run stand for those of this one."""
        plugin, context = self._plugin(step), _Context()
        inputs = _each_text(step.inputs, lambda text: self.renamed.get(text, text))
        checked = plugin.Check(provider_pb2.CheckRequest(urn=step.urn, news=encode(inputs)), context)
        assert not checked.failures, checked.failures
        made = plugin.Create(
            provider_pb2.CreateRequest(urn=step.urn, properties=checked.inputs), context
        )
        resource = Resource(step, made.id, reveal(decode(made.properties)) | {"id": made.id})
        for name, value in step.outputs.items():
            if isinstance(value, str):
                self.renamed[value] = resource.properties[name]
        self.recorded.append(resource)
        return resource

    def destroy(self, layer: str = "") -> None:
        """Delete what is recorded, the newest first, as the engine does: a layer's, or all."""
        while self.recorded and layer in ("", self.recorded[-1].step.layer):
            resource = self.recorded[-1]
            self._plugin(resource.step).Delete(
                provider_pb2.DeleteRequest(
                    id=resource.identity,
                    urn=resource.step.urn,
                    properties=encode(resource.properties),
                ),
                _Context(),
            )
            self.recorded.pop()

    def restart(self) -> None:
        """Let the plugins forget what they made, as new processes would."""
        for name, plugin in self.plugins.items():
            told = encode(self.configurations.get(name, {}))
            plugin.Configure(provider_pb2.ConfigureRequest(args=told), _Context())

    def _plugin(self, step: Step) -> Plugin:
        package = step.urn.split("::")[2].split(":")[0]
        name = f"{step.layer}.{package}"
        if name not in self.plugins:
            self.plugins[name] = Plugin(package)
            self.restart()
        return self.plugins[name]


def steps_of(
    settings: Settings,
    layers: Sequence[str],
    packages: Sequence[str],
    configuration: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Any],
) -> tuple[list[Step], Cloud]:
    """Run layers of `local`; the steps in which they made their resources.

    Parameters
    ----------
    packages
        Whose resources are made; others are not.
    configuration
        What a package's provider is told besides what the programs tell it.
    given
        Outputs of other layers.
    """
    cloud = Cloud({})
    steps: list[Step] = []
    outputs = dict(given)
    for layer in layers:
        outputs |= _run(layer, settings, tuple(packages), configuration, outputs, steps, cloud)
    return steps, cloud


def _run(
    layer: str,
    settings: Settings,
    packages: tuple[str, ...],
    configuration: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Any],
    steps: list[Step],
    cloud: Cloud,
) -> dict[str, Any]:
    exported: dict[str, Any] = {}
    one_at_a_time = threading.Lock()

    class Engine(pulumi.runtime.Mocks):
        def new_resource(self, args: Any) -> tuple[str | None, dict[str, Any]]:
            inputs = _plain(args.inputs)
            kind, _, package = args.typ.rpartition(":")
            if kind == "pulumi:providers":
                cloud.configurations[f"{layer}.{package}"] = inputs | configuration.get(package, {})
            if args.typ == "pulumi:pulumi:StackReference":
                return args.name, inputs | {"outputs": given}
            if args.typ.partition(":")[0] not in packages:
                return f"{args.name}-id", inputs
            urn = f"urn:pulumi:local.{layer}::hybrid::{args.typ}::{args.name}"
            step = Step(layer, urn, inputs)
            with one_at_a_time:  # the mocks register side by side what does not depend on another
                made = cloud.make(step)
                steps.append(replace(step, outputs=made.properties))
            return made.identity, made.properties

        def call(self, args: Any) -> dict[str, Any]:
            raise AssertionError(f"programs ask a provider for nothing, but called {args.token}")

    asyncio.set_event_loop(asyncio.new_event_loop())
    pulumi.runtime.set_mocks(Engine(), project="hybrid", stack=f"local.{layer}")
    original, pulumi.export = pulumi.export, exported.__setitem__
    try:

        @pulumi.runtime.test
        def program() -> None:
            import_module(f"stacks.{layer}").program("local", settings)

        program()
        return asyncio.get_event_loop().run_until_complete(pulumi.Output.all(**exported).future())
    finally:
        pulumi.export = original


def _plain(value: Any) -> Any:
    """A value with its secrets in clear."""
    if isinstance(value, dict):
        secret = SIGNATURE_KEY in value
        return _plain(value["value"]) if secret else {k: _plain(v) for k, v in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _each_text(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_each_text(item, change) for item in value]
    return change(value) if isinstance(value, str) else value


# moto within this process answers at AWS's own addresses.
AWS_ENDPOINTS = {
    service: f"https://{service}.amazonaws.com"
    if service in ("iam", "sts")
    else f"https://{service}.{REGION}.amazonaws.com"
    for service in SERVICES
}


@contextmanager
def after_each_call(happens: Callable[[str], None]) -> Iterator[None]:
    """Let something happen after each call to a cloud, before its caller knows the answer."""
    original, asked = botocore.client.BaseClient._make_api_call, CloudStorage.call
    watched = os.getpid()  # what a copy of this process calls is another matter

    def call(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        try:
            return original(client, operation, parameters)
        except NotImplementedError as error:  # as moto says it behind HTTP
            answer = {"Error": {"Code": "NotImplemented", "Message": str(error)}}
            raise ClientError(answer, operation) from None
        finally:
            if os.getpid() == watched:
                happens(f"{client.meta.service_model.service_name}:{operation}")

    def ask(storage: CloudStorage, method: str, path: str, **options: Any) -> Any:
        try:
            return asked(storage, method, path, **options)
        finally:
            if os.getpid() == watched:
                happens(f"gcs:{method}")

    botocore.client.BaseClient._make_api_call, CloudStorage.call = call, ask
    try:
        yield
    finally:
        botocore.client.BaseClient._make_api_call, CloudStorage.call = original, asked


@contextmanager
def put_back(gcs_endpoint: str, project: str) -> Iterator[None]:
    """Make the buckets again that something removes meanwhile."""
    address, query = f"{gcs_endpoint}/storage/v1/b", {"project": project}
    before = httpx.get(address, params=query).json().get("items") or []
    yield
    there = {each["name"] for each in httpx.get(address, params=query).json().get("items") or []}
    for bucket in before:
        if bucket["name"] not in there:
            body = {key: bucket[key] for key in ("name", "labels") if key in bucket}
            httpx.post(address, params=query, json=body).raise_for_status()


def in_a_copy(work: Callable[[], Any]) -> Any:
    """Do something in a copy of this process, the cloud within it included; what it returns."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = json.dumps(work())
        except BaseException as error:
            answer = json.dumps(f"{type(error).__name__}: {error}")
        os.write(writer, answer.encode()[:60000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return json.loads(answer)
