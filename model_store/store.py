"""The model store: models by content hash, and the channels that point to them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import EllipsisType
from typing import TYPE_CHECKING, Any

from model_store import residency
from model_store.blobs import blob_key, get_blob, put_blob
from model_store.channels import CHANNELS, Move, pointed, read_moves, stack, write_moves
from model_store.errors import StoreError
from model_store.folder import sync_folder
from model_store.holds import hold
from model_store.manifest import Manifest, parents_of
from model_store.objects import Objects
from model_store.references import digest_in, manifest_key, manifests, resolve

if TYPE_CHECKING:
    from model_store.signing import Keyring


@dataclass(frozen=True)
class ModelRecord:
    """One stored model.

    Parameters
    ----------
    digest
        `sha256:` and the hash of its manifest.
    created
        When this store first received it, in UTC.
    size
        Bytes of its files.
    channels
        Channels that point to it now.
    lineage
        Where it comes from, as given to `put`.
    """

    digest: str
    created: datetime
    size: int
    channels: tuple[str, ...]
    lineage: dict[str, Any]


class Store:
    """Content-addressed models and the channels that point to them.

    ``blobs/<sha256>`` holds files, ``manifests/<sha256>.json`` says which files make a model,
    ``signatures/<sha256>/<key>`` who vouches for it, ``channels/<name>`` where a channel points.
    Blobs and manifests never change; a manifest is written after its blobs and its signature, so a
    model that is seen is whole. Only channels change, by compare-and-swap.

    Parameters
    ----------
    keys
        Sign what is stored, and tell whose models may be fetched; without them nothing is signed
        and nothing may be fetched.
    """

    def __init__(self, objects: Objects, keys: Keyring | None = None) -> None:
        self.objects = objects
        self.keys = keys

    def put(self, folder: Path, *, lineage: dict[str, Any]) -> str:
        """Store the files of a folder as a model.

        Files that the store has already are not sent again; the same files with the same lineage
        give the same digest and leave one model, also when stored by several at once.

        Parameters
        ----------
        folder
            The model's files, subfolders included.
        lineage
            Where the model comes from: a plain JSON mapping.

        Returns
        -------
        str
            The model's digest.

        Raises
        ------
        StoreError
            The folder is no model, it is private and the store is elsewhere, a file changes
            meanwhile, or the store cannot be reached.
        """
        manifest = Manifest.of_folder(folder, lineage)
        private = residency.is_private(folder)
        residency.require_may_go(private, str(folder), self.objects)
        digest, key = manifest.digest, manifest_key(manifest.digest)
        models = [digest, *parents_of(lineage)]
        with hold(self.objects, models, [file.sha256 for file in manifest.files]) as held:
            for file in manifest.files:
                if private:
                    residency.mark(self.objects, blob_key(file))
                put_blob(self.objects, folder, file)
            if private:
                residency.mark(self.objects, key)
            if self.keys:
                from model_store.signing import add_signature

                add_signature(self.objects, digest, self.keys)
            # Another process may have been first: then its manifest is the same.
            self.objects.swap(key, manifest.to_bytes(), None)
            if self.objects.entry(held) is None:
                raise StoreError(
                    f"Storing {folder} took so long that a garbage collection gave it up: "
                    "try again."
                )
        return digest

    def get(self, reference: str, target: Path) -> Path:
        """Fetch a model, checking every hash; `target` appears whole or not at all.

        Parameters
        ----------
        reference
            Digest, unique prefix of a digest, or channel.
        target
            Folder to make; it must not exist or be empty.

        Returns
        -------
        Path
            `target`.

        Raises
        ------
        StoreError
            No such model, no trusted key signed it, a file is missing or its hash is wrong, or
            `target` is in use.
        """
        from model_store.signing import require_signed

        digest = self.resolve(reference)
        require_signed(self.objects, digest, self.keys)
        empty = target.is_dir() and not target.is_symlink() and not any(target.iterdir())
        if os.path.lexists(target) and not empty:
            raise StoreError(f"{target} exists already: give a new folder for the model.")
        manifest = self.manifest(digest)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".incoming-") as incoming:
                content = Path(incoming) / "model"
                for file in manifest.files:
                    get_blob(self.objects, digest, file, content / file.name)
                private = residency.is_marked(self.objects, manifest_key(digest))
                if self.objects.on_site and private:
                    (content / residency.MARK).touch()
                os.replace(content, target)
            sync_folder(target.parent)
        except OSError as error:
            raise StoreError(f"Model {digest} cannot be written to {target}: {error}.") from None
        return target

    def resolve(self, reference: str) -> str:
        """Digest that a digest, a unique prefix of at least six characters or a channel means.

        Raises
        ------
        StoreError
            It means nothing or several models; the message lists what exists.
        """
        return resolve(self.objects, reference)

    def manifest(self, reference: str) -> Manifest:
        """Files and lineage of a model; StoreError if it is unknown or its manifest is corrupt."""
        digest = self.resolve(reference)
        found = self.objects.read(manifest_key(digest))
        if found is None:
            raise StoreError(f"Model {digest} was removed from the store meanwhile.")
        return Manifest.from_bytes(found[0], digest)

    def list(self) -> list[ModelRecord]:
        """All models, the newest first."""
        channels = self.channels()
        records = []
        for entry in manifests(self.objects):
            digest = digest_in(entry)
            manifest = self.manifest(digest)
            names = tuple(name for name in CHANNELS if channels.get(name) == digest)
            records.append(
                ModelRecord(digest, entry.modified, manifest.size, names, manifest.lineage)
            )
        return sorted(records, key=lambda record: (record.created, record.digest), reverse=True)

    def channels(self) -> dict[str, str]:
        """Channels that are in use and the digest each points to."""
        return pointed(self.objects)

    def history(self, channel: str) -> list[Move]:
        """The moves of a channel, the oldest first; StoreError if there is no such channel."""
        return read_moves(self.objects, channel)[0]

    def move_channel(
        self, channel: str, digest: str, *, expected: str | None | EllipsisType = ...
    ) -> None:
        """Let a channel point to another model, unless somebody else moves it meanwhile.

        Parameters
        ----------
        channel
            One of `CHANNELS`.
        digest
            Digest, or other reference, of the model to point to.
        expected
            Digest that the channel must point to now, None if it must point to nothing yet;
            left out, whatever it points to when the move begins.

        Raises
        ------
        StoreError
            The channel or model is unknown, or the channel points elsewhere than expected.
        """
        moves, token = read_moves(self.objects, channel)
        current = moves[-1].model if moves else None
        if expected is not ... and current != expected:
            raise _lost_race(channel, expected, current)
        digest = self.resolve(digest)
        if current != digest:
            self._move(channel, moves, Move.now(digest), token)

    def rollback(
        self, channel: str, *, expected: str | EllipsisType = ...
    ) -> tuple[str, str]:
        """Let a channel point to the model before the one that it points to; both, that one first.

        Repeated it leads further back, not forth again.

        Raises
        ------
        StoreError
            There was nothing before, it is no longer there, or the channel points elsewhere than
            expected or is moved meanwhile.
        """
        moves, token = read_moves(self.objects, channel)
        models = stack(moves)
        if expected is not ... and models[-1:] != [expected]:
            raise _lost_race(channel, expected, models[-1] if models else None)
        if len(models) < 2:
            raise StoreError(f"Channel {channel!r} has no model before the one it points to now.")
        before, current = models[-2:]
        self._move(channel, moves, Move.now(self.resolve(before), back=True), token)
        return before, current

    def _move(self, channel: str, moves: list[Move], move: Move, token: str | None) -> None:
        with hold(self.objects, models=[move.model]):
            # Collected since it was looked up? From here on it stays.
            if self.objects.entry(manifest_key(move.model)) is None:
                raise StoreError(f"Model {move.model} was removed from the store meanwhile.")
            if not write_moves(self.objects, channel, [*moves, move], token):
                raise _lost_race(
                    channel,
                    moves[-1].model if moves else None,
                    self.channels().get(channel),
                )


def _lost_race(channel: str, expected: str | None, current: str | None) -> StoreError:
    return StoreError(
        f"Channel {channel!r} points to {current or 'nothing'}, not to {expected or 'nothing'} "
        "as expected: somebody moved it; look at it and decide again."
    )
