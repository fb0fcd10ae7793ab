"""Stored models: what is in one, how two differ, which one a channel points to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cli.application import Progress
from cli.deployment import kind_of_model
from cli.environment import Environment
from cli.errors import CommandError
from cli.learning import environment_store, short_digest
from cli.serving_client import channel_of
from cli.stores import objects_at
from model_store.card import CARD
from model_store.check import Checked, check
from model_store.errors import StoreError
from model_store.references import digest_in, manifests
from model_store.replica import Drill, Replicated
from model_store.replica import drill as try_out
from model_store.replica import replicate as copy_to
from model_store.signing import add_signature, require_signed
from model_store.store import Store


def describe(environment: Environment, reference: str) -> dict[str, Any]:
    """Everything that the store knows of a model; `problem` tells why it would not be loaded."""
    store = environment_store(environment)
    digest = store.resolve(reference)
    manifest = store.manifest(digest)
    signed_by = problem = None
    try:
        signed_by = require_signed(store.objects, digest, store.keys)
    except StoreError as error:
        problem = str(error)
    return {
        "digest": digest,
        "channels": [name for name, model in store.channels().items() if model == digest],
        "signed_by": signed_by,
        "problem": problem,
        "files": [asdict(file) for file in manifest.files],
        "lineage": manifest.lineage,
        "card": _card(store, digest),
    }


def differences(environment: Environment, first: str, second: str) -> dict[str, Any]:
    """Files, recipe, metrics and the rest of the lineage in which two models differ.

    Returns
    -------
    dict
        ``models``, the two digests; ``files``, names by `changed`, `removed` and `added`; then each
        field that differs, with both values, under ``recipe``, ``metrics`` and ``lineage``.
    """
    store = environment_store(environment)
    digests = [store.resolve(reference) for reference in (first, second)]
    one, two = (store.manifest(digest) for digest in digests)
    files = [{file.name: file.sha256 for file in manifest.files} for manifest in (one, two)]
    both = files[0].keys() & files[1].keys()
    rest = [
        {name: value for name, value in each.lineage.items() if name not in ("recipe", "metrics")}
        for each in (one, two)
    ]
    return {
        "models": digests,
        "files": {
            "changed": sorted(name for name in both if files[0][name] != files[1][name]),
            "removed": sorted(files[0].keys() - both),
            "added": sorted(files[1].keys() - both),
        },
        **{
            part: _fields(one.lineage.get(part) or {}, two.lineage.get(part) or {})
            for part in ("recipe", "metrics")
        },
        "lineage": _fields(*rest),
    }


def promote(
    environment: Environment, reference: str, channel: str, expected: str | None
) -> tuple[str, str | None]:
    """Let a channel point to a model that a trusted key signed; the model and the one before it.

    Raises
    ------
    StoreError
        The model is not signed, or the channel points elsewhere than expected or moves meanwhile.
    CommandError
        The channel says what is served, and that of models of another kind.
    """
    store = environment_store(environment)
    digest = store.resolve(reference)
    require_signed(store.objects, digest, store.keys)
    _require_fits(store, digest, channel)
    before = store.channels().get(channel)
    store.move_channel(channel, digest, expected=store.resolve(expected) if expected else before)
    _note(environment, channel, digest, before)
    return digest, before


def rollback(environment: Environment, channel: str) -> tuple[str, str]:
    """Let a channel point to the model before; that model and the one it pointed to."""
    store = environment_store(environment)
    digest, current = store.rollback(channel)
    _note(environment, channel, digest, current)
    return digest, current


def verify(
    environment: Environment, references: tuple[str, ...], progress: Progress
) -> list[Checked]:
    """Check some models, or all that the store has or a channel points to."""
    store = environment_store(environment)
    digests = [store.resolve(reference) for reference in references]
    if not digests:
        stored = {digest_in(entry) for entry in manifests(store.objects)}
        digests = sorted(stored | set(store.channels().values()))
    return check(store, digests, progress)


def sign(environment: Environment, reference: str, progress: Progress) -> str:
    """Vouch for a model that another hand stored, once it is found whole; its digest.

    Raises
    ------
    CommandError
        It is not whole.
    """
    store = environment_store(environment)
    digest = store.resolve(reference)
    (found,) = check(store, [digest], progress, signed=False)
    if found.problem:
        raise CommandError(f"Not signed: {found.problem}")
    add_signature(store.objects, digest, store.keys)
    return digest


def replicate(
    environment: Environment, addresses: Iterable[str], progress: Progress
) -> dict[str, Replicated]:
    """Copy the store to each address, by default to those of the settings."""
    store = environment_store(environment)
    return {
        address: copy_to(store, objects_at(environment, address), progress)
        for address in _replicas(environment, addresses)
    }


def restore(environment: Environment, address: str, progress: Progress) -> Replicated:
    """Bring back from a replica what the store lacks."""
    replica = Store(objects_at(environment, address), environment.signing_keys())
    if not any(manifests(replica.objects)):
        raise CommandError(f"There are no models at {address}: look whether the address is right.")
    return copy_to(replica, environment_store(environment).objects, progress)


def drill(
    environment: Environment, addresses: Iterable[str], progress: Progress
) -> dict[str, Drill]:
    """Restore each replica into an empty folder and compare it with the store."""
    store = environment_store(environment)
    return {
        address: try_out(store, Store(objects_at(environment, address), store.keys), progress)
        for address in _replicas(environment, addresses)
    }


def pull(environment: Environment, reference: str, folder: Path) -> str:
    """Fetch a model into a new folder; its digest."""
    store = environment_store(environment)
    digest = store.resolve(reference)
    store.get(digest, folder.absolute())
    return digest


def names(digest: str | None) -> str:
    """How a model is called in a sentence; `nothing` for None."""
    return short_digest(digest) if digest else "nothing"


def _replicas(environment: Environment, addresses: Iterable[str]) -> list[str]:
    found = list(addresses) or list(environment.settings.model_replicas)
    if not found:
        raise CommandError(
            f"{environment.name} has no replicas: give an address, or set model_replicas.",
            exit_code=2,
        )
    return found


def _require_fits(store: Store, digest: str, channel: str) -> None:
    """Refuse what `hybrid up` and `hybrid deploy` could not put into service by the channel."""
    if not channel.startswith("production"):
        return
    kind = kind_of_model(store, digest)
    if (own := channel_of(kind)) != channel:
        raise CommandError(
            f"Model {short_digest(digest)} is a {kind} model: it goes to {own}, not to {channel}."
        )


def _note(environment: Environment, channel: str, digest: str, before: str | None) -> None:
    if channel.startswith("production") and digest != before:
        environment.audit_log().append("promoted", model=digest, before=before)


def _card(store: Store, digest: str) -> str | None:
    (file,) = [each for each in store.manifest(digest).files if each.name == CARD] or [None]
    found = file and store.objects.read(f"blobs/{file.sha256}")
    return found[0].decode(errors="replace") if found else None


def _fields(one: dict[str, Any], two: dict[str, Any]) -> dict[str, list[Any]]:
    return {
        name: [one.get(name), two.get(name)]
        for name in sorted(one.keys() | two.keys())
        if one.get(name) != two.get(name)
    }
