"""The server's rounds and the sites' ClientApps in one process, without Flower's servers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Context, Error, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from safetensors.numpy import load_file

from federation import client_app, server_app
from federation.run import _prepare
from federation.settings import RunSettings

if TYPE_CHECKING:
    from tests.federation.conftest import Shop


class LocalGrid:
    """Flower's Grid for sites in this process.

    Parameters
    ----------
    data : dict of str to Path
        Data folder by site that is connected.
    tamper : callable
        Given (site, reply), may change the reply or give another one.
    homes : Path, optional
        Where the sites keep their states; by default, in a folder of this grid's own.
    """

    def __init__(
        self,
        data: dict[str, Path],
        tamper: Callable[[str, Message], Message | None] = lambda site, reply: reply,
        homes: Path | None = None,
    ) -> None:
        self._sites = dict(enumerate(data, start=1))
        self._data = data
        self._tamper = tamper
        self._replies: dict[str, Message] = {}
        self._scratch = tempfile.TemporaryDirectory()
        self._homes = homes or Path(self._scratch.name)
        self.exchanges = 0
        # Every app process has these, and messages are stamped with them.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    def get_nodes(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(node_id=node, name=name) for node, name in self._sites.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self.exchanges += 1
        identities = []
        for message in messages:
            identity = f"{self.exchanges}/{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = identity
            site = self._sites[message.metadata.dst_node_id]
            reply = self._tamper(site, self._ask(site, message))
            if reply is not None:
                self._replies[identity] = reply
            identities.append(identity)
        return identities

    def pull_messages(self, identities: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in identities if name in self._replies]

    def _ask(self, site: str, message: Message) -> Message:
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config={
                "site": site,
                "data": str(self._data[site]),
                "state": str(self._homes / site),
            },
            state=RecordDict(),
            run_config={},
        )
        try:
            return client_app.app(message, context)
        except Exception as error:  # as Flower's own ClientApp process does
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(code=2, reason=reason), reply_to=message)


def settings_of(run: Path, shop: Shop, **changes: object) -> RunSettings:
    settings = RunSettings(folder=run, sites=tuple(shop.data), **{"rounds": 2} | changes)
    _prepare(settings, shop.initial)
    return settings


def start(settings: RunSettings, grid: LocalGrid) -> None:
    context = SimpleNamespace(run_config=settings.to_config())
    server_app.main(grid, context)


def weights(artifact: Path) -> dict[str, np.ndarray]:
    return load_file(artifact / "weights.safetensors")


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all((left[name] == right[name]).all() for name in left)
