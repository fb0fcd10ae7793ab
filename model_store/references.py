"""What a reference means: a digest, the first characters of one, or a channel."""

from __future__ import annotations

import re
from collections.abc import Iterator

from model_store.channels import CHANNELS, pointed
from model_store.errors import StoreError
from model_store.objects import Entry, Objects

SHORTEST_PREFIX = 6


def resolve(objects: Objects, reference: str) -> str:
    """Digest of the model that is meant; StoreError lists what exists where none or several are."""
    if reference in CHANNELS:
        found = pointed(objects).get(reference)
        if found is None:
            raise StoreError(f"No model is in channel {reference!r} yet. {_what_exists(objects)}")
        return found
    prefix = reference.removeprefix("sha256:")
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},64}}", prefix):
        raise StoreError(
            f"{reference!r} is no model: give a digest, at least {SHORTEST_PREFIX} of its "
            f"characters, or a channel ({', '.join(CHANNELS)}). {_what_exists(objects)}"
        )
    digests = [digest_in(entry) for entry in manifests(objects, prefix)]
    if len(digests) > 1:
        raise StoreError(
            f"{reference!r} means several models ({', '.join(sorted(digests))}): "
            "give more characters."
        )
    if not digests:
        raise StoreError(f"There is no model {reference!r}. {_what_exists(objects)}")
    return digests[0]


def manifests(objects: Objects, prefix: str = "") -> Iterator[Entry]:
    """The objects that hold manifests, of digests that begin with `prefix`."""
    for entry in objects.entries(f"manifests/{prefix}"):
        if entry.key.endswith(".json"):
            yield entry


def manifest_key(digest: str) -> str:
    """Where a model's manifest is kept."""
    return f"manifests/{digest.removeprefix('sha256:')}.json"


def digest_in(manifest: Entry) -> str:
    """The model whose manifest an object is."""
    return "sha256:" + manifest.key.removeprefix("manifests/").removesuffix(".json")


def _what_exists(objects: Objects) -> str:
    """A sentence on what could have been meant."""
    entries = sorted(manifests(objects), key=lambda e: e.modified, reverse=True)
    if not entries:
        return "The store is empty: train a model first."
    channels: dict[str, list[str]] = {}
    for name, digest in pointed(objects).items():
        channels.setdefault(digest, []).append(name)
    models = []
    for digest in map(digest_in, entries[:10]):
        names = f" ({', '.join(channels[digest])})" if digest in channels else ""
        models.append(digest.removeprefix("sha256:")[:12] + names)
    more = f" and {len(entries) - 10} more" if len(entries) > 10 else ""
    return f"The store has: {', '.join(models)}{more}."
