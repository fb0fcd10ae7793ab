"""Flower's SuperNode, with a state that gives out tasks and messages as soon as they are whole.

Flower 1.41 looks for a ClientApp's reply every half second, and a ClientApp that is quicker than
the download of its message tries again after a second. Who runs ClientApps has to ask for tasks
over and over. And the SuperNode waits for ever for a ClientApp that ended before it had taken its
message, or in the middle of its reply. All five are matters of the node's state, which Flower's ``start_client_internal`` is
given from outside: this gives it :class:`PromptState` and does for the rest what
``flower-supernode`` does in process isolation.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.common.config import parse_config_args
from flwr.common.constant import ISOLATION_MODE_PROCESS, Status, SubStatus
from flwr.proto.task_pb2 import Task
from flwr.supercore.constant import HTTP_SERVER_SHUTDOWN_TIMEOUT, TaskType
from flwr.supercore.exit import add_exit_handler
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import NoObjectInStoreError, ObjectStore, ObjectStoreFactory
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeState, NodeStateFactory
from flwr.supernode.nodestate.in_memory_nodestate import (
    CLIENT_APP_CRASHED_ERROR,
    InMemoryNodeState,
)
from flwr.supernode.start_client_internal import start_client_internal

LOOK_SECONDS = 0.01
# Flower looks for ClientApps that have died after each wait.
MOST_WAITING_SECONDS = 10.0
# A SuperNode that shall end waits for who asks for tasks.
MOST_IDLE_SECONDS = 1.0


class PromptState(InMemoryNodeState):
    """A SuperNode's state in memory."""

    def __init__(self, object_store: ObjectStore) -> None:
        super().__init__(object_store)
        self._created = threading.Condition()
        self._tasks_created = 0

    def create_task(self, *args: Any, **kwargs: Any) -> int | None:
        """Create a task and tell of it."""
        task = super().create_task(*args, **kwargs)
        with self._created:
            self._tasks_created += 1
            self._created.notify_all()
        return task

    def get_tasks(self, **filters: Any) -> Sequence[Task]:
        """Retrieve tasks; if only pending ones are asked for, wait a while for one."""
        known = self._tasks_created
        found = super().get_tasks(**filters)
        if found or filters.get("statuses") != [Status.PENDING]:
            return found
        with self._created:
            self._created.wait_for(lambda: self._tasks_created > known, MOST_IDLE_SECONDS)
        return super().get_tasks(**filters)

    def get_messages_legacy(
        self,
        *,
        run_ids: Sequence[int] | None = None,
        is_reply: bool | None = None,
        limit: int | None = None,
    ) -> Sequence[Message]:
        """Retrieve messages; if only replies or only others are asked for, wait a while for one."""
        if is_reply:
            self._give_up_abandoned()
        if is_reply is not None:
            deadline = time.monotonic() + MOST_WAITING_SECONDS
            # The SuperNode sends replies only after it has taken a message. One that is left behind
            # for the reply to a stopped run's message would wait until the next message comes.
            while (
                not self._has_whole(is_reply) or (is_reply and self._has_unanswered())
            ) and time.monotonic() < deadline:
                time.sleep(LOOK_SECONDS)
        if not is_reply:
            return super().get_messages_legacy(run_ids=run_ids, is_reply=is_reply, limit=limit)
        super().get_messages_legacy(run_ids=[])  # it looks for ClientApps that have died
        with self.lock_msg_store:
            # Who has a reply waits until its last part has come, and does nothing else meanwhile.
            ready = [
                entry
                for entry in self.msg_store.values()
                if entry.message.metadata.reply_to_message_id
                and not entry.is_retrieved
                and (run_ids is None or entry.message.metadata.run_id in run_ids)
                and self._is_whole(entry.message.metadata.message_id)
            ][:limit]
            for entry in ready:
                entry.is_retrieved = True
        return [entry.message for entry in ready]

    def finish_task(self, task_id: int, sub_status: str, details: str) -> bool:
        """Finish a task; a ClientApp's that failed gets an error for its reply if it has none."""
        finished = super().finish_task(task_id, sub_status, details)
        if finished and sub_status != SubStatus.COMPLETED:
            self._give_up(self.get_tasks(task_ids=[task_id]))
        return finished

    def _on_task_tokens_expired(self, tasks: list[Task]) -> None:
        self._give_up(tasks)

    def _give_up(self, tasks: Sequence[Task]) -> None:
        """Answer for ClientApps that have ended: before they took their message, or without a reply.

        A reply of which parts are missing is none: they will not come any more. A message of which
        parts are missing is still coming in, and Flower stumbles if it is gone then.
        """
        runs = {task.run_id for task in tasks if task.type == TaskType.CLIENT_APP}
        with self.lock_msg_store:
            for entry in list(self.msg_store.values()):
                metadata = entry.message.metadata
                if metadata.run_id not in runs:
                    continue
                if metadata.reply_to_message_id:
                    if not entry.is_retrieved and not self._is_whole(metadata.message_id):
                        self.delete_messages(message_ids=[metadata.message_id])
                        self.object_store.delete(metadata.message_id)
                elif not entry.is_retrieved and self._is_whole(metadata.message_id):
                    entry.is_retrieved = True
                    self.record_message_processing_start(metadata.message_id)
                    self.object_store.delete(metadata.message_id)
        self._store_error_replies(runs, CLIENT_APP_CRASHED_ERROR)

    def _give_up_abandoned(self) -> None:
        """Give up messages whose ClientApp ended while they were coming in."""
        at_work = [Status.PENDING, Status.STARTING, Status.RUNNING]
        busy = {task.run_id for task in super().get_tasks(statuses=at_work)}
        ended = super().get_tasks(statuses=[Status.FINISHED])
        self._give_up([task for task in ended if task.run_id not in busy])

    def _has_whole(self, is_reply: bool) -> bool:
        with self.lock_msg_store:
            messages = [entry.message for entry in self.msg_store.values() if not entry.is_retrieved]
        return any(
            self._is_whole(message.metadata.message_id)
            for message in messages
            if bool(message.metadata.reply_to_message_id) is is_reply
        )

    def _has_unanswered(self) -> bool:
        with self.lock_msg_store:
            metadata = [entry.message.metadata for entry in self.msg_store.values()]
        answered = {each.reply_to_message_id for each in metadata}
        return any(
            not each.reply_to_message_id and each.message_id not in answered for each in metadata
        )

    def _is_whole(self, message_id: str) -> bool:
        try:
            tree = self.object_store.get_object_tree(message_id)
        except NoObjectInStoreError:
            return False
        return all(self.object_store.get(part.object_id) for part in iterate_object_tree(tree))


class PromptStateFactory(NodeStateFactory):
    """Makes the one :class:`PromptState` of a SuperNode."""

    def state(self) -> NodeState:
        """The state, made when it is first asked for."""
        with self.lock:
            if self.state_instance is None:
                self.state_instance = PromptState(self.objectstore_factory.store())
            return self.state_instance


def _serve(
    factory: NodeStateFactory, secret: bytes, host: str, port: int
) -> tuple[uvicorn.Server, threading.Thread]:
    """Start the API that the site's client executor and ClientApps call."""
    app = create_app(state_factory=factory, superexec_auth_secret=secret)
    server = uvicorn.Server(uvicorn.Config(app=app, host=host, port=port, access_log=False))
    thread = threading.Thread(target=server.run, name="runtime-api")
    thread.start()
    while thread.is_alive() and not server.started:
        time.sleep(LOOK_SECONDS)
    if not server.started:
        sys.exit(f"Error: the SuperNode cannot listen on {host}:{port}.")
    return server, thread


def main() -> None:
    """Serve until SIGTERM or until the link to the SuperLink ends in an error."""
    parser = argparse.ArgumentParser(prog="supernode", description=__doc__.splitlines()[0])
    parser.add_argument("--superlink", required=True, metavar="HOST:PORT")
    parser.add_argument("--root-certificates", required=True, type=Path, metavar="FILE")
    parser.add_argument("--private-key", required=True, type=Path, metavar="FILE")
    parser.add_argument("--node-config", required=True, metavar="NAME='VALUE' …")
    parser.add_argument("--superexec-auth-secret-file", required=True, type=Path, metavar="FILE")
    parser.add_argument("--host", required=True, help="where the client executor finds this")
    parser.add_argument("--port", required=True, type=int)
    arguments = parser.parse_args()
    key = load_ssh_private_key(arguments.private_key.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        parser.error(f"{arguments.private_key} holds no elliptic-curve key: enrol the site again.")
    secret = arguments.superexec_auth_secret_file.read_bytes()
    factory = PromptStateFactory(ObjectStoreFactory())
    server, thread = _serve(factory, secret, arguments.host, arguments.port)

    def stop() -> None:
        server.should_exit = True
        thread.join(HTTP_SERVER_SHUTDOWN_TIMEOUT)
        server.force_exit = True

    add_exit_handler(stop)
    try:
        start_client_internal(
            state_factory=factory,
            server_address=arguments.superlink,
            node_config=parse_config_args([arguments.node_config]),
            root_certificates=arguments.root_certificates.read_bytes(),
            authentication_keys=(key, key.public_key()),
            isolation=ISOLATION_MODE_PROCESS,
            runtime_api_address=f"{arguments.host}:{arguments.port}",
            superexec_auth_secret=secret,
        )
    finally:
        # Otherwise the API's thread would keep alive a process that is connected to nothing.
        stop()
    # Flower logs an error of the link, an expired certificate for one, and just returns.
    sys.exit("Error: the link to the SuperLink has ended; whoever supervises this starts it again.")


if __name__ == "__main__":
    main()
