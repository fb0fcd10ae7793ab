from __future__ import annotations

import threading

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode, Status, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.task_identity import TaskIdentity

from federation import supernode
from federation.supernode import PromptState, PromptStateFactory

RUN, NODE = 1, 7


@pytest.fixture
def state() -> PromptState:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN, NODE
    state = PromptStateFactory(ObjectStoreFactory()).state()
    state.set_node_id(NODE)
    return state


def store(state: PromptState, message: Message, *, whole: bool = True) -> None:
    """Put a message into the state, as Flower does, with its parts or still without them."""
    message.metadata.__dict__["_message_id"] = message.object_id
    state.object_store.preregister(RUN, get_object_tree(message))
    state.store_message(message)
    if whole:
        store_parts(state, message)


def store_parts(state: PromptState, message: Message) -> None:
    for name, part in get_all_nested_objects(message).items():
        state.object_store.put(name, part.deflate())


def asked(state: PromptState, number: int = 0) -> tuple[Message, int]:
    """A message and the task of the ClientApp that shall work on it."""
    content = RecordDict({"number": ConfigRecord({"number": number})})
    message = Message(content, dst_node_id=NODE, message_type="train")
    message.metadata.__dict__["_run_id"] = RUN
    task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN, fab_hash="none")
    store(state, message)
    return message, task


def test_a_reply_is_given_when_its_last_part_has_come(state: PromptState) -> None:
    message, _ = asked(state)
    assert state.get_messages_legacy(is_reply=False) == [message]
    found = []
    waiting = threading.Thread(
        target=lambda: found.extend(state.get_messages_legacy(is_reply=True))
    )
    waiting.start()
    reply = Message(RecordDict(), reply_to=message)
    store(state, reply, whole=False)
    assert waiting.is_alive() and not found
    store_parts(state, reply)
    waiting.join(60)
    assert found == [reply]


def test_no_reply_is_left_behind_for_one_that_nobody_waits_for(state: PromptState) -> None:
    old, new = asked(state, 1)[0], asked(state, 2)[0]
    state.get_messages_legacy(is_reply=False)
    late, reply = Message(RecordDict(), reply_to=old), Message(RecordDict(), reply_to=new)
    store(state, late)
    found = []
    waiting = threading.Thread(
        target=lambda: found.extend(state.get_messages_legacy(is_reply=True))
    )
    waiting.start()
    store(state, reply)
    waiting.join(60)
    assert found == [late, reply]


@pytest.mark.parametrize("taken", [True, False])
def test_a_client_app_that_failed_without_a_reply_is_given_up(
    state: PromptState, taken: bool
) -> None:
    message, task = asked(state)
    if taken:
        state.get_messages_legacy(is_reply=False)
        state.record_message_processing_start(message.metadata.message_id)
    state.finish_task(task, SubStatus.FAILED, "it was killed")
    (reply,) = state.get_messages_legacy()  # and no message is left to be taken
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED
    assert reply.metadata.reply_to_message_id == message.metadata.message_id


@pytest.mark.parametrize("known", [True, False])
def test_a_client_app_that_ended_while_its_message_came_in_is_given_up_afterwards(
    state: PromptState, known: bool
) -> None:
    message = Message(RecordDict(), dst_node_id=NODE, message_type="train")
    message.metadata.__dict__["_run_id"] = RUN
    task = state.create_task(task_type=TaskType.CLIENT_APP, run_id=RUN, fab_hash="none")
    if known:
        store(state, message, whole=False)
    state.finish_task(task, SubStatus.FAILED, "it was killed")
    if known:
        store_parts(state, message)  # Flower goes on receiving
    else:
        store(state, message)
    (reply,) = state.get_messages_legacy(is_reply=True)
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED
    assert reply.metadata.reply_to_message_id == message.metadata.message_id
    state.object_store.delete(reply.metadata.message_id)  # as Flower does once it is sent
    assert len(state.object_store) == 0


def test_the_reply_of_a_client_app_that_failed_afterwards_stands(state: PromptState) -> None:
    message, task = asked(state)
    state.get_messages_legacy(is_reply=False)
    reply = Message(RecordDict(), reply_to=message)
    store(state, reply)
    state.finish_task(task, SubStatus.FAILED, "it was killed")
    assert state.get_messages_legacy(is_reply=True) == [reply]


def test_half_a_reply_is_never_given_and_goes_with_the_client_app_that_died_over_it(
    state: PromptState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernode, "MOST_WAITING_SECONDS", 0.0)
    message, task = asked(state)
    state.get_messages_legacy(is_reply=False)
    state.record_message_processing_start(message.metadata.message_id)
    store(state, Message(RecordDict(), reply_to=message), whole=False)
    assert state.get_messages_legacy(is_reply=True) == []
    state.finish_task(task, SubStatus.FAILED, "it was killed")
    (reply,) = state.get_messages_legacy(is_reply=True)
    assert reply.error.code == ErrorCode.CLIENT_APP_CRASHED
    # The next one's reply to the same message is taken.
    again = Message(RecordDict({"again": ConfigRecord({"number": 2})}), reply_to=message)
    store(state, again)
    assert state.get_messages_legacy(is_reply=True) == [again]


def test_who_asks_for_tasks_hears_of_one_when_it_is_made(state: PromptState) -> None:
    found = []
    asking = threading.Thread(
        target=lambda: found.extend(state.get_tasks(statuses=[Status.PENDING]))
    )
    asking.start()
    _, task = asked(state)
    asking.join(60)
    assert [each.task_id for each in found] == [task]
    state.finish_task(task, SubStatus.FAILED, "it was killed")
    assert not state.get_tasks(statuses=[Status.PENDING])
