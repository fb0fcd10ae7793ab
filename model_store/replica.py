"""Copies of a store elsewhere, model by model, and the drill that shows that one comes back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from model_store import residency
from model_store.channels import CHANNELS, read_moves, write_moves
from model_store.check import check
from model_store.errors import StoreError
from model_store.folder import FolderObjects
from model_store.holds import hold
from model_store.objects import Objects
from model_store.references import digest_in, manifest_key, manifests
from model_store.signing import signatures_of
from model_store.store import Store

Progress = Callable[[int, int, str], None]


@dataclass
class Replicated:
    """What a copy did: models that were sent and that were there, channels that were moved, and
    why a model or a channel was left as it was."""

    copied: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    channels: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drill:
    """What came back from a replica alone.

    Attributes
    ----------
    restored
        Models that are whole and signed.
    problems
        What did not come back, or not whole, by model or channel.
    behind
        Models and channels in which the replica is not yet where the store is.
    seconds
        From the empty folder to the last hash.
    """

    restored: list[str]
    problems: dict[str, str]
    behind: list[str]
    seconds: float


def replicate(
    source: Store, target: Objects, progress: Progress = lambda done, total, text: None
) -> Replicated:
    """Bring every model and channel of a store to another place, with signatures; remove nothing.

    A channel moves only forward: one that was moved at the target by another hand is left there.
    """
    done = Replicated()
    models = [digest_in(entry) for entry in manifests(source.objects)]
    for number, model in enumerate(models):
        progress(number, len(models), model.removeprefix("sha256:")[:12])
        try:
            sent = _copy(source, target, model)
        except StoreError as error:
            done.refused[model] = str(error)
        else:
            (done.copied if sent else done.same).append(model)
    for channel in CHANNELS:
        try:
            model = _move(source.objects, target, channel)
        except StoreError as error:
            done.refused[channel] = str(error)
        else:
            done.channels |= {channel: model} if model else {}
    progress(len(models), len(models), "done")
    return done


def drill(
    store: Store, replica: Store, progress: Progress = lambda done, total, text: None
) -> Drill:
    """Restore a replica into an empty folder, load nothing from the store itself, and compare.

    The folder needs as much disk as the store holds; it is removed afterwards.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hybrid-drill-") as scratch:
        restored = Store(FolderObjects(Path(scratch) / "store"), store.keys)
        done = replicate(replica, restored.objects, progress)
        found = check(restored, done.copied, progress)
        seconds = time.monotonic() - start
        channels = restored.channels()
    problems = done.refused | {each.model: each.problem for each in found if each.problem}
    whole = [each.model for each in found if not each.problem]
    expected = {digest_in(entry) for entry in manifests(store.objects)}
    behind = sorted(expected - set(whole) - problems.keys())
    behind += [name for name, model in store.channels().items() if channels.get(name) != model]
    return Drill(whole, problems, behind, seconds)


def _copy(source: Store, target: Objects, model: str) -> bool:
    """Send a model that the target lacks; whether there was one to send."""
    there = target.entry(manifest_key(model)) is not None
    if not there:
        with tempfile.TemporaryDirectory(prefix="hybrid-replica-") as scratch:
            folder = source.get(model, Path(scratch) / "model")
            manifest = source.manifest(model)
            _label_outside(folder, {file.name for file in manifest.files})
            residency.require_may_go(residency.is_private(folder), model, target)
            # Signed before it is seen.
            _copy_signatures(source.objects, target, model)
            Store(target).put(folder, lineage=manifest.lineage)
    else:
        _copy_signatures(source.objects, target, model)
    return not there


def _label_outside(folder: Path, files: set[str]) -> None:
    """Take a label that `get` added out of the model's files, whose hash it would change."""
    mark = folder / residency.MARK
    if mark.exists() and residency.MARK not in files:
        mark.rename(folder.parent / residency.MARK)


def _copy_signatures(source: Objects, target: Objects, model: str) -> None:
    for entry in source.entries(signatures_of(model)):
        found, there = source.read(entry.key), target.read(entry.key)
        if found and (there is None or there[0] != found[0]):
            target.swap(entry.key, found[0], there[1] if there else None)


def _move(source: Objects, target: Objects, channel: str) -> str | None:
    """Let a channel of the target follow the source's; where it points then, None if as before."""
    moves, _ = read_moves(source, channel)
    there, token = read_moves(target, channel)
    if not moves or there == moves:
        return None
    if there and there[-1] not in moves:
        raise StoreError(
            f"Channel {channel!r} in {target.address} was moved by another hand: it stays at "
            f"{there[-1].model}."
        )
    model = moves[-1].model
    with hold(target, models=[model]):
        if target.entry(manifest_key(model)) is None:
            raise StoreError(f"Channel {channel!r} stays: {model} did not come over.")
        if not write_moves(target, channel, moves, token):
            raise StoreError(f"Channel {channel!r} in {target.address} was moved meanwhile.")
    return model
