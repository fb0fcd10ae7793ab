"""The model store: models by content hash, and the channels that point to them."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import EllipsisType
from typing import Any

from model_store import residency
from model_store.blobs import blob_key, get_blob, put_blob
from model_store.errors import StoreError
from model_store.folder import sync_folder
from model_store.manifest import Manifest
from model_store.objects import Entry, Objects

CHANNELS = ("candidate", "canary", "production")
SHORTEST_PREFIX = 6


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

    ``blobs/<sha256>`` holds files, ``manifests/<sha256>.json`` says which files make a model, and
    ``channels/<name>`` holds the digest a channel points to. Blobs and manifests never change;
    a manifest is written after its blobs, so a model that is seen is whole. Only channels change,
    by compare-and-swap.
    """

    def __init__(self, objects: Objects) -> None:
        self.objects = objects

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
        for file in manifest.files:
            if private:
                residency.mark(self.objects, blob_key(file))
            put_blob(self.objects, folder, file)
        if private:
            residency.mark(self.objects, _manifest(manifest.digest))
        # Another process may have been first: then its manifest is the same.
        self.objects.swap(_manifest(manifest.digest), manifest.to_bytes(), None)
        return manifest.digest

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
            No such model, a file is missing or its hash is wrong, or `target` is in use.
        """
        digest = self.resolve(reference)
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
                if self.objects.on_site and residency.is_marked(self.objects, _manifest(digest)):
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
        if reference in CHANNELS:
            found = self.channels().get(reference)
            if found is None:
                raise StoreError(
                    f"No model is in channel {reference!r} yet. {self._what_exists()}"
                )
            return found
        prefix = reference.removeprefix("sha256:")
        if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", prefix):
            raise StoreError(
                f"{reference!r} is no model: give a digest, at least {SHORTEST_PREFIX} of its "
                f"characters, or a channel ({', '.join(CHANNELS)}). {self._what_exists()}"
            )
        digests = [_digest(entry) for entry in self._manifests(prefix)]
        if len(digests) > 1:
            raise StoreError(
                f"{reference!r} means several models ({', '.join(sorted(digests))}): "
                "give more characters."
            )
        if not digests:
            raise StoreError(f"There is no model {reference!r}. {self._what_exists()}")
        return digests[0]

    def manifest(self, reference: str) -> Manifest:
        """Files and lineage of a model; StoreError if it is unknown or its manifest is corrupt."""
        digest = self.resolve(reference)
        found = self.objects.read(_manifest(digest))
        if found is None:
            raise StoreError(f"Model {digest} was removed from the store meanwhile.")
        return Manifest.from_bytes(found[0], digest)

    def list(self) -> list[ModelRecord]:
        """All models, the newest first."""
        channels = self.channels()
        records = []
        for entry in self._manifests():
            digest = _digest(entry)
            manifest = self.manifest(digest)
            names = tuple(name for name in CHANNELS if channels.get(name) == digest)
            records.append(
                ModelRecord(digest, entry.modified, manifest.size, names, manifest.lineage)
            )
        return sorted(records, key=lambda record: (record.created, record.digest), reverse=True)

    def channels(self) -> dict[str, str]:
        """Channels that are in use and the digest each points to."""
        found = {name: self.objects.read(_channel(name)) for name in CHANNELS}
        return {name: value[0].decode().strip() for name, value in found.items() if value}

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
        if channel not in CHANNELS:
            raise StoreError(f"There is no channel {channel!r}: use {', '.join(CHANNELS)}.")
        digest = self.resolve(digest)
        found = self.objects.read(_channel(channel))
        current, token = (found[0].decode().strip(), found[1]) if found else (None, None)
        if expected is not ... and current != expected:
            raise _lost_race(channel, expected, current)
        if current == digest or self.objects.swap(_channel(channel), f"{digest}\n".encode(), token):
            return
        # A client's own retry may follow a write that arrived but whose answer was lost.
        now = self.channels().get(channel)
        if now != digest:
            raise _lost_race(channel, current, now)

    def _manifests(self, prefix: str = "") -> Iterator[Entry]:
        for entry in self.objects.entries(f"manifests/{prefix}"):
            if entry.key.endswith(".json"):
                yield entry

    def _what_exists(self) -> str:
        """A sentence on what could have been meant."""
        entries = sorted(self._manifests(), key=lambda e: e.modified, reverse=True)
        if not entries:
            return "The store is empty: train a model first."
        pointed: dict[str, list[str]] = {}
        for name, digest in self.channels().items():
            pointed.setdefault(digest, []).append(name)
        models = []
        for digest in map(_digest, entries[:10]):
            names = f" ({', '.join(pointed[digest])})" if digest in pointed else ""
            models.append(digest.removeprefix("sha256:")[:12] + names)
        more = f" and {len(entries) - 10} more" if len(entries) > 10 else ""
        return f"The store has: {', '.join(models)}{more}."


def _manifest(digest: str) -> str:
    return f"manifests/{digest.removeprefix('sha256:')}.json"


def _channel(name: str) -> str:
    return f"channels/{name}"


def _digest(manifest: Entry) -> str:
    return "sha256:" + manifest.key.removeprefix("manifests/").removesuffix(".json")


def _lost_race(channel: str, expected: str | None, current: str | None) -> StoreError:
    return StoreError(
        f"Channel {channel!r} points to {current or 'nothing'}, not to {expected or 'nothing'} "
        "as expected: somebody moved it; look at it and decide again."
    )
