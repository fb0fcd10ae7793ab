"""Channels: names that point to a model, each with the history of where it pointed.

An object ``channels/<name>`` holds a line of JSON for each move, the last one being where it points
now. Line and history are one object, so that one compare-and-swap moves both.
"""

from __future__ import annotations

import getpass
import json
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from model_store.errors import StoreError
from model_store.objects import Objects

CHANNELS = (
    "candidate", "staging", "canary", "production",
    # Of models that do something else than recommend, by kind.
    "production-search", "production-rating", "production-click",
)  # fmt: skip
# More moves than anybody goes back; older lines are dropped.
KEPT = 200


@dataclass(frozen=True)
class Move:
    """One move of a channel.

    Parameters
    ----------
    model
        Digest that it points to since.
    at, by
        Time (UTC, of the mover's clock, so only for people) and user; empty where unknown.
    back
        Whether it was a rollback.
    id
        Tells a move from another one to the same model at the same time.
    """

    model: str
    at: str = ""
    by: str = ""
    back: bool = False
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def now(cls, model: str, *, back: bool = False) -> Move:
        """A move by this user at this moment."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # in a container whose user has no name
            user = ""
        return cls(model, datetime.now(UTC).isoformat(timespec="seconds"), user, back)


def read_moves(objects: Objects, channel: str) -> tuple[list[Move], str | None]:
    """The moves of a channel, the oldest first, and the token of its version.

    Raises
    ------
    StoreError
        There is no channel of that name, or the object holds something else.
    """
    if channel not in CHANNELS:
        raise StoreError(f"There is no channel {channel!r}: use {', '.join(CHANNELS)}.")
    found = objects.read(channel_key(channel))
    if found is None:
        return [], None
    try:
        return [_move(line) for line in found[0].decode().splitlines()], found[1]
    except (ValueError, TypeError, UnicodeDecodeError):
        raise StoreError(
            f"Channel {channel!r} in {objects.address} holds something else than moves: "
            f"put an earlier version of {channel_key(channel)} back."
        ) from None


def pointed(objects: Objects) -> dict[str, str]:
    """Channels that are in use, and the digest each points to."""
    found = {name: read_moves(objects, name)[0] for name in CHANNELS}
    return {name: moves[-1].model for name, moves in found.items() if moves}


def write_moves(objects: Objects, channel: str, moves: list[Move], token: str | None) -> bool:
    """Replace a channel if it is still version `token`; False if it is not."""
    lines = [json.dumps(asdict(move), sort_keys=True) for move in moves[-KEPT:]]
    if objects.swap(channel_key(channel), ("\n".join(lines) + "\n").encode(), token):
        return True
    # A client's own retry may follow a write that arrived but whose answer was lost.
    now, _ = read_moves(objects, channel)
    return bool(now) and now[-1] == moves[-1]


def stack(moves: list[Move]) -> list[str]:
    """The models that rollbacks would lead through: the last one serves now, the one before it is
    where a rollback leads."""
    models: list[str] = []
    for move in moves:
        if move.back and len(models) > 1:
            models.pop()
        if not models or models[-1] != move.model:
            models.append(move.model)
    return models


def channel_key(channel: str) -> str:
    """Where a channel is kept."""
    return f"channels/{channel}"


def _move(line: str) -> Move:
    # Before there was a history a channel held a digest and nothing else.
    return Move(line.strip(), id="") if line.startswith("sha256:") else Move(**json.loads(line))
