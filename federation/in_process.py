"""A federated run within one process: the server's and the sites' own code, no server, no network.

For benchmarks and for reckoning a run again. The sites work one after another, so the times that
the records give are no measure of a real federation's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.supercore.task_identity import TaskIdentity

from federation import client_app, server_app
from federation.run import FederatedResult, prepare, result_of
from federation.settings import RunSettings


class InProcessGrid:
    """Flower's Grid for sites in this process, which answer as soon as they are asked.

    Parameters
    ----------
    data : dict of str to Path
        Data folder by site.
    states : Path
        Folder in which the sites keep what they carry from round to round.
    """

    def __init__(self, data: Mapping[str, Path], states: Path) -> None:
        self._sites = dict(enumerate(data, start=1))
        self._data, self._states = data, states
        self._replies: dict[str, Message] = {}
        self.exchanges = 0
        # Every app process has these, and messages are stamped with them.
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0

    def get_nodes(self) -> list[SimpleNamespace]:
        """The sites, with number and name."""
        return [SimpleNamespace(node_id=node, name=name) for node, name in self._sites.items()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let every message be answered; gives the identities to ask for the replies with."""
        self.exchanges += 1
        identities = []
        for message in messages:
            identity = f"{self.exchanges}/{message.metadata.dst_node_id}"
            message.metadata.__dict__["_message_id"] = identity
            site = self._sites[message.metadata.dst_node_id]
            if (reply := self.ask(site, message)) is not None:
                self._replies[identity] = reply
            identities.append(identity)
        return identities

    def pull_messages(self, identities: Iterable[str]) -> list[Message]:
        """Replies that are there, each once."""
        return [self._replies.pop(name) for name in identities if name in self._replies]

    def ask(self, site: str, message: Message) -> Message | None:
        """The reply of a site's ClientApp, an error if it raised one."""
        context = Context(
            run_id=1,
            node_id=message.metadata.dst_node_id,
            node_config={
                "site": site,
                "data": str(self._data[site]),
                "state": str(self._states / site),
            },
            state=RecordDict(),
            run_config={},
        )
        try:
            return client_app.app(message, context)
        except Exception as error:  # as Flower's own ClientApp process does
            reason = f"{type(error)}:<'{error}'>"
            code = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
            return Message(Error(code=code, reason=reason), reply_to=message)


def run_in_process(
    initial: Path, run: Path, data: Mapping[str, Path], **how: Any
) -> FederatedResult:
    """Do what :func:`federation.run.federate` does, in this process.

    Parameters
    ----------
    initial, run
        See :func:`federation.run.federate`; the sites' states come into the run's folder.
    data : dict of str to Path
        Data folder by site.
    how
        Settings of the run: see :class:`federation.settings.RunSettings`.

    Raises
    ------
    FederationError
        As :func:`federation.run.federate`.
    """
    settings = RunSettings(folder=Path(run).absolute(), sites=tuple(sorted(data)), **how)
    prepare(settings, Path(initial))
    context = SimpleNamespace(run_config=settings.to_config())
    server_app.main(InProcessGrid(data, settings.folder / "sites"), context)
    return result_of(settings)
