"""How writers and the garbage collection keep out of each other's way, on any store, by no clock.

A writer first leaves a *hold* that names the models and blobs that it is about to rest on, and only
then looks whether a collection is at work; if so it waits. A collection first leaves its *lock*,
and only then reads the holds, the channels and the manifests, in this order. Stores answer reads with
what was written before, so at least one of the two sees the other: either the collection spares
what the writer named, or the writer waits until the collection has ended.
"""

from __future__ import annotations

import json
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from model_store.errors import StoreError
from model_store.objects import Entry, Objects

HOLDS = "holds/"
LOCK = "collection"
WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Held:
    """What holds name: digests of models, and SHA-256 of blobs."""

    models: frozenset[str]
    blobs: frozenset[str]
    entries: tuple[Entry, ...]


@contextmanager
def hold(
    objects: Objects, models: Iterable[str] = (), blobs: Iterable[str] = ()
) -> Iterator[str]:
    """Keep models and blobs from being collected while the block runs; gives the hold's key.

    Raises
    ------
    StoreError
        A collection is at work and does not end.
    """
    key = f"{HOLDS}{uuid.uuid4().hex}"
    objects.swap(key, json.dumps({"models": list(models), "blobs": list(blobs)}).encode(), None)
    try:
        _wait_for_collection(objects)
        yield key
    finally:
        # What cannot be removed, as by a machine that may only add, runs out.
        with suppress(StoreError):
            objects.remove(key)


def read_holds(objects: Objects) -> Held:
    """All holds, also of writers that were killed."""
    models: set[str] = set()
    blobs: set[str] = set()
    entries = tuple(objects.entries(HOLDS))
    for entry in entries:
        found = objects.read(entry.key)
        if found is not None:
            named = json.loads(found[0])
            models.update(named["models"])
            blobs.update(named["blobs"])
    return Held(frozenset(models), frozenset(blobs), entries)


@contextmanager
def collection(objects: Objects, *, break_lock: bool = False) -> Iterator[Entry]:
    """Hold the store's one lock while the block runs; gives the lock, whose time is the store's.

    Parameters
    ----------
    break_lock
        Take it from a collection on another machine, which must have ended.

    Raises
    ------
    StoreError
        Another collection holds it.
    """
    found = objects.read(LOCK)
    token = None
    if found is not None:
        if not break_lock and _may_run(found[0]):
            raise StoreError(
                f"Another collection ({_who(found[0])}) is at work in {objects.address}: let it "
                "end; if it was killed, run hybrid models gc --break-lock."
            )
        token = found[1]
    mine = {"host": socket.gethostname(), "pid": os.getpid(), "id": uuid.uuid4().hex}
    if not objects.swap(LOCK, json.dumps(mine).encode(), token):
        raise StoreError(f"Another collection has just begun in {objects.address}: let it end.")
    try:
        entry = objects.entry(LOCK)
        if entry is None:
            raise StoreError(f"The lock of {objects.address} was taken away: try again.")
        yield entry
    finally:
        objects.remove(LOCK)


def _wait_for_collection(objects: Objects) -> None:
    end = time.monotonic() + WAIT_SECONDS
    while (found := objects.read(LOCK)) is not None:
        if time.monotonic() >= end or not _may_run(found[0]):
            raise StoreError(
                f"A garbage collection ({_who(found[0])}) holds {objects.address}: let it end; if "
                "it was killed, run hybrid models gc, which ends what it began."
            )
        time.sleep(0.2)


def _may_run(lock: bytes) -> bool:
    """Whether the collection that left a lock may be at work: on this machine that is known."""
    try:
        holder = json.loads(lock)
        if holder["host"] == socket.gethostname():
            os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return True


def _who(lock: bytes) -> str:
    try:
        holder = json.loads(lock)
        return f"process {holder['pid']} of {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "of unknown origin"
