"""What tests of components share: mocks that record what is declared, also with unknowns."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pulumi
import pytest
from pulumi.output import Unknown

from tests.infra.authority import pair

# Under this key the engine's protocol wraps a secret: {SECRET: mark, "value": the secret}.
SECRET = "4dabf18193072939515e22adb298388d"


# Outputs of other layers that programs ask for.
REFERRED = (
    "network", "resource_group", "gateway_subnet", "kubeconfig", "join_token", "token_secret",
    "token_vault", "autoscaler_key",
)  # fmt: skip


def plain(value: Any) -> Any:
    """A value with its secrets in clear, and without what is not known; in a list that is None.

    The mocks leave it out or hand it on, as their own threads happen to take a preview for one.
    """
    if isinstance(value, dict):
        if SECRET in value:
            return plain(value["value"])
        found = {key: plain(each) for key, each in value.items()}
        return {key: each for key, each in found.items() if each is not None}
    if isinstance(value, Unknown):
        return None
    return [plain(item) for item in value] if isinstance(value, list) else value


class Recorder(pulumi.runtime.Mocks):
    """Stands for the engine; `inputs[type][name]` are what the program declared, in clear.

    `secrets[type, name]` are the inputs of a resource that were declared secret.

    Outside previews a resource has an id and an ARN. In previews it has neither, and the engine
    makes them unknown, as for a resource that is not created yet.
    """

    def __init__(self, preview: bool) -> None:
        self.preview = preview
        self.inputs: dict[str, dict[str, dict[str, Any]]] = {}
        self.secrets: dict[tuple[str, str], set[str]] = {}

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict]:
        if args.typ == "pulumi:pulumi:StackReference":
            names = () if self.preview else REFERRED
            return args.name, {"outputs": {name: f"{name}-of-another-layer" for name in names}}
        self.inputs.setdefault(args.typ, {})[args.name] = plain(args.inputs)
        self.secrets[args.typ, args.name] = {
            key for key, value in args.inputs.items() if isinstance(value, dict) and SECRET in value
        }
        if self.preview:
            return None, dict(args.inputs)
        made = {
            "arn": f"arn:aws:test:::{args.name}",
            "bucket": f"{args.name}-bucket",
            "name": f"{args.name}-name",
            "latestVersion": 1,
            "primaryNetworkInterfaceId": f"{args.name}-interface",
            "stdout": "server: https://127.0.0.1:6443\npassword: hidden\n",
            "result": "a-random-password",
            "hex": "0a1b2c3d",
            "email": f"{args.name}@of-the-test",
            "privateKey": b64encode(b'{"private_key": "swordfish"}').decode(),
            "vpnInterfaces": [{"id": n, "ipAddress": f"203.0.113.{n + 1}"} for n in (0, 1)],
            "vaultUri": "https://of-the-test",
            "clientId": "client-of-the-test",
            "tenantId": "tenant-of-the-test",
            "certPem": pair()[0],
            "privateKeyPem": pair()[1],
        }
        return f"{args.name}-id", made | args.inputs

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict:
        raise AssertionError(f"programs ask a provider for nothing, but called {args.token}")

    def only(self, kind: str) -> dict[str, Any]:
        """Inputs of the one resource of a type."""
        (inputs,) = self.inputs[kind].values()
        return inputs


@pytest.fixture
def declare() -> Callable[..., tuple[Any, Recorder]]:
    """Run a program under mocks to its end: ``declare(make, preview=False)``."""

    def run(make: Callable[[], Any], preview: bool = False) -> tuple[Any, Recorder]:
        recorder = Recorder(preview)
        asyncio.set_event_loop(asyncio.new_event_loop())
        pulumi.runtime.set_mocks(recorder, project="hybrid", stack="test.layer", preview=preview)
        made = None

        @pulumi.runtime.test
        def program() -> None:
            nonlocal made
            made = make()

        program()
        return made, recorder

    return run


def settled(output: pulumi.Output) -> tuple[Any, bool, bool]:
    """An output's value, whether it is known, whether it is secret."""

    async def wait() -> tuple[Any, bool, bool]:
        return await output.future(), await output.is_known(), await output.is_secret()

    return asyncio.get_event_loop().run_until_complete(wait())


@pytest.fixture(name="settled")
def settled_fixture() -> Callable[[pulumi.Output], tuple[Any, bool, bool]]:
    return settled
