"""Garbage collection: what no channel, no lineage, no hold and no recent use needs goes away.

Needed is what a channel points to and the models before it that a rollback can reach, what a hold
names, what was stored lately, and everything that one of these was made from, however far back. A
manifest goes before its blobs: whenever a collection is killed, a model is whole or gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from model_store import residency
from model_store.channels import CHANNELS, read_moves, stack
from model_store.errors import StoreError
from model_store.holds import collection, read_holds
from model_store.manifest import SHA256, Manifest, parents_of
from model_store.objects import Entry
from model_store.references import digest_in, manifest_key, manifests
from model_store.signing import signatures_of
from model_store.store import Store

# A writer that has not ended by then is taken for dead.
HOLD = timedelta(days=7)


@dataclass(frozen=True)
class Garbage:
    """Digests of models and SHA-256 of blobs that nothing needs, and the blobs' bytes."""

    models: tuple[str, ...]
    blobs: tuple[str, ...]
    bytes: int


def collect(
    store: Store,
    *,
    keep: timedelta = timedelta(days=30),
    rollbacks: int = 5,
    dry_run: bool = False,
    break_lock: bool = False,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Garbage:
    """Remove what nothing needs; uploads and promotions may run meanwhile.

    Parameters
    ----------
    keep
        What was stored less than this ago, by the store's own clock, stays in any case.
    rollbacks
        Models before the current one that each channel can be rolled back to.
    dry_run
        Only tell what would go.
    break_lock
        Take over from a collection on another machine, which must have ended.

    Raises
    ------
    StoreError
        Another collection is at work, or a manifest or channel cannot be read, or a manifest is gone
        that a channel points to: what it needs is not known then, so nothing is removed.
    """
    objects = store.objects
    with ExitStack() as cleanup:
        now = datetime.now(UTC)
        if not dry_run:
            now = cleanup.enter_context(collection(objects, break_lock=break_lock)).modified
        # In this order: see `model_store.holds`.
        held = read_holds(objects)
        stacks = {channel: stack(read_moves(objects, channel)[0]) for channel in CHANNELS}
        pointed = {model for each in stacks.values() for model in each[-1 - rollbacks :]}
        entries = {digest_in(entry): entry for entry in manifests(objects)}
        models = {digest: store.manifest(digest) for digest in entries}
        for channel, each in stacks.items():
            if each and each[-1] not in models:
                raise StoreError(
                    f"Channel {channel!r} points to {each[-1]}, whose manifest is gone, so that "
                    "nobody knows which files it needs: restore the store from a replica, or "
                    "promote another model. Nothing was removed."
                )
        blobs = {
            entry.key.removeprefix("blobs/"): entry
            for entry in objects.entries("blobs/")
            if SHA256.fullmatch(entry.key.removeprefix("blobs/"))
        }
        young = {name for name, entry in (entries | blobs).items() if now - entry.modified < keep}
        found = garbage(
            models,
            {sha256: entry.size for sha256, entry in blobs.items()},
            roots=pointed | held.models | young,
            kept_blobs=held.blobs | young,
        )
        if not dry_run:
            _remove(store, found, progress)
            _remove_expired(store, held.entries, now)
        return found


def garbage(
    models: Mapping[str, Manifest],
    blobs: Mapping[str, int],
    *,
    roots: Iterable[str],
    kept_blobs: Iterable[str],
) -> Garbage:
    """Models that no root rests on, and blobs (SHA-256 to bytes) that no other model has."""
    needed: set[str] = set()
    todo = [root for root in roots if root in models]
    while todo:
        model = todo.pop()
        if model not in needed:
            needed.add(model)
            todo += [each for each in parents_of(models[model].lineage) if each in models]
    used = {file.sha256 for model in needed for file in models[model].files} | set(kept_blobs)
    gone = sorted(blobs.keys() - used)
    return Garbage(
        tuple(sorted(models.keys() - needed)), tuple(gone), sum(blobs[blob] for blob in gone)
    )


def _remove(store: Store, found: Garbage, progress: Callable[[int, int, str], None]) -> None:
    objects, total = store.objects, len(found.models) + len(found.blobs)
    keys = [manifest_key(model) for model in found.models]
    keys += [f"blobs/{blob}" for blob in found.blobs]
    for number, key in enumerate(keys):
        progress(number, total, f"{number} of {total} objects removed")
        objects.remove(key)
        objects.remove(f"{key}{residency.MARK}")
    for model in found.models:
        for entry in list(objects.entries(signatures_of(model))):
            objects.remove(entry.key)
    progress(total, total, f"{total} of {total} objects removed")


def _remove_expired(store: Store, holds: Iterable[Entry], now: datetime) -> None:
    """Holds of dead writers: what they named was spared once more and goes the next time."""
    for entry in holds:
        if now - entry.modified >= HOLD:
            store.objects.remove(entry.key)
