"""How a stored model gets into service on a TorchServe, and back into it after a crash."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import ServingError
from cli.serving_client import ServedVersion, ServingClient, channel_of
from cli.smoke import smoke_test
from cli.torchserve import archives_of
from model_store.channels import stack
from model_store.errors import StoreError

if TYPE_CHECKING:
    from model_store.store import Store

UNTOUCHED = "what served before serves on."
# Of a model that is being deployed, in TorchServe's folder.
INCOMING = "incoming-"
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Deployment:
    """What a deployment did.

    Parameters
    ----------
    digest
        The model that serves now.
    previous
        The model that served before; None if none did.
    changed
        False where the model served already and nothing was done.
    """

    digest: str
    previous: str | None
    changed: bool


def kind_of_model(store: Store, digest: str) -> str:
    """What a stored model does, such as `recommend`; ArchiveError where nobody knows."""
    from handlers.kinds import kind_of

    return kind_of({file.name for file in store.manifest(digest).files}, digest).name


def deploy(
    store: Store,
    reference: str,
    *,
    client: ServingClient,
    folder: Path,
    progress: Progress | None = None,
) -> Deployment:
    """Put a model into service, and move the channel of its kind to it.

    The new version is loaded and tested beside the old one. Until it has passed and the channel
    is moved, a failure leaves the old version serving and removes the new one.

    Parameters
    ----------
    store, reference
        The model, by digest, unique prefix or channel.
    client, folder
        For models of this kind on a running TorchServe, and the folder given to
        `torchserve_command`.
    progress
        Called with (done, total, text) as the steps begin.

    Raises
    ------
    ServingError
        TorchServe or the model fails; the old version serves on.
    StoreError
        The model is unknown or corrupt, or somebody else moved the channel; the old version
        serves on.
    """
    report = progress or (lambda done, total, text: None)
    digest = store.resolve(reference)
    channel = channel_of(client.kind)
    promoted = store.channels().get(channel)
    current = client.serving()
    if current is not None and current.digest == digest and current.ready:
        # After a crash between the last two steps only the channel is left to move.
        store.move_channel(channel, digest, expected=promoted)
        report(5, 5, "it serves already")
        return Deployment(digest, digest, changed=promoted != digest)
    loaded = _is_ready(client, digest)
    try:
        introduce(store, digest, client=client, folder=folder, progress=report)
        report(3, 5, "switching to the new version")
        client.set_default(digest)
        store.move_channel(channel, digest, expected=promoted)
    except BaseException:
        # A canary has users: it stays loaded.
        _withdraw(client, folder, None if loaded else digest, current)
        raise
    report(4, 5, "retiring old versions but the last one")
    retire(client, folder, keep={digest, promoted, current.digest if current else None})
    report(5, 5, "done")
    return Deployment(digest, current.digest if current else None, changed=True)


def roll_back(store: Store, *, client: ServingClient, folder: Path) -> Deployment:
    """Put the model before the one in production into service again, and move the channel back.

    A deployment leaves that model loaded, so that this is done at once; else it is loaded first.
    What served last stays loaded until the next deployment.

    Raises
    ------
    ServingError, StoreError
        As `deploy`; there was no model before, among others.
    """
    channel = channel_of(client.kind)
    models = stack(store.history(channel))
    if len(models) < 2:
        raise ServingError(f"No other model was in {channel} before: there is none to go back to.")
    before, promoted = models[-2:]
    current = client.serving()
    introduce(store, before, client=client, folder=folder)
    client.set_default(before)
    try:
        store.rollback(channel, expected=promoted)
    except BaseException:
        if current is not None:
            client.set_default(current.digest)
        raise
    return Deployment(before, promoted, changed=True)


def restore(
    store: Store,
    *,
    client: ServingClient,
    folder: Path,
    canary: str | None = None,
    progress: Progress | None = None,
) -> str | None:
    """Let TorchServe serve what the channel of a kind says, as after its restart.

    Beside it the model that a rollback would lead to is loaded, and the canary.

    Returns
    -------
    str or None
        Digest of the model in production; None where none was deployed yet.

    Raises
    ------
    ServingError, StoreError
        As `deploy`, of the model in production or the canary; the channel is never moved.
    """
    report = progress or (lambda done, total, text: None)
    channel = channel_of(client.kind)
    digest = store.channels().get(channel)
    if digest is None:
        return None
    current = client.serving()
    if current is None or current.digest != digest or not current.ready:
        try:
            introduce(store, digest, client=client, folder=folder, progress=report)
            client.set_default(digest)
        except BaseException:
            _withdraw(client, folder, digest, current)
            raise
    before = stack(store.history(channel))[-2:-1]
    retire(client, folder, keep={digest, canary, *before})
    if canary is not None:
        introduce(store, canary, client=client, folder=folder, progress=report)
    for model in before:
        try:
            introduce(store, model, client=client, folder=folder, progress=report)
        except (ServingError, StoreError) as error:
            report(5, 5, f"a rollback will have to load its model first: {error}")
    report(5, 5, "done")
    return digest


def introduce(
    store: Store,
    digest: str,
    *,
    client: ServingClient,
    folder: Path,
    progress: Progress | None = None,
) -> None:
    """Build, load and test a version, which answers only at its own address then.

    One that is loaded already and answers is only tested. The parameters are those of `deploy`.
    """
    report = progress or (lambda done, total, text: None)
    archive = _archive(folder, client.kind, digest)
    if archive.exists() and _is_ready(client, digest):
        _test(client, digest, archive)
        return
    from handlers.archive import build_archive
    from handlers.kinds import kind_in

    # What a killed deployment has left is as large as a model.
    for left in folder.glob(f"{INCOMING}*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=INCOMING, dir=folder) as private:
        report(0, 5, "fetching the model and building its archive")
        artifact = store.get(digest, Path(private) / "artifact")
        if (kind := kind_in(artifact).name) != client.kind:
            raise ServingError(
                f"Model {digest} is a {kind} model, and the channel {channel_of(client.kind)} is "
                f"for others: hybrid deploy puts it into {channel_of(kind)}; {UNTOUCHED}"
            )
        build_archive(artifact, digest, archive)
        report(1, 5, "loading the new version beside the old one")
        # A deployment that was killed may have left it half loaded.
        client.unregister(digest)
        try:
            client.register(archive.name)
        except ServingError as error:
            raise ServingError(
                f"Model {digest} cannot be loaded: {error}. `hybrid logs torchserve` tells why; "
                f"{UNTOUCHED}"
            ) from None
        report(2, 5, "testing the new version")
        _test(client, digest, archive)


def _is_ready(client: ServingClient, digest: str) -> bool:
    return any(version.digest == digest and version.ready for version in client.versions())


def _test(client: ServingClient, digest: str, archive: Path) -> None:
    """Ask the version at its own address; ServingError if an answer is wrong."""
    if problem := smoke_test(client, digest, archive):
        raise ServingError(
            f"Model {digest} fails its test before service: {problem}; {UNTOUCHED}"
        )


def _withdraw(
    client: ServingClient, folder: Path, digest: str | None, current: ServedVersion | None
) -> None:
    """Undo a deployment as far as TorchServe answers; the first failure is the one to tell."""
    try:
        if current is not None and current.digest != digest:
            client.set_default(current.digest)
        if digest is not None:
            client.unregister(digest)
    except ServingError:
        pass
    if digest is not None:
        _archive(folder, client.kind, digest).unlink(missing_ok=True)


def retire(client: ServingClient, folder: Path, *, keep: set[str | None]) -> None:
    """Remove all versions but some, what earlier crashes left included, and their archives."""
    for version in client.versions():
        if version.digest not in keep:
            client.unregister(version.digest)
    kept = {_archive(folder, client.kind, digest) for digest in keep if digest}
    for archive in archives_of(folder).glob(f"{client.kind}-*.mar"):
        if archive not in kept:
            archive.unlink()


def _archive(folder: Path, kind: str, digest: str) -> Path:
    """Where the archive of a model is."""
    return archives_of(folder) / f"{kind}-{digest.removeprefix('sha256:')}.mar"
