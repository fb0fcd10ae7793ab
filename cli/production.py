"""The model that users are served: putting it there, putting it back, asking it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import deployment, trials
from cli.application import Progress
from cli.deployment import Deployment
from cli.environment import Environment
from cli.errors import CommandError, ServingError
from cli.learning import environment_store, lineage_of, load_data
from cli.nginx import nginx_program
from cli.serving_client import MODEL, ServingClient
from cli.steps import recorded


@dataclass(frozen=True)
class Deployed:
    """The model in production, the one before it, and the URL that answers with it."""

    digest: str
    previous: str | None
    changed: bool
    address: str


@dataclass(frozen=True)
class Recommendation:
    """A served answer: `items` are rows of item, text and score, the best first."""

    user: str
    history: list[str]
    items: list[dict[str, Any]]
    model: str


def serving_client(environment: Environment) -> ServingClient:
    """Client of the environment's TorchServe itself."""
    environment.require_local("Serving")
    ports = environment.settings.ports.torchserve
    return ServingClient(
        f"http://127.0.0.1:{ports.management}", f"http://127.0.0.1:{ports.inference}"
    )


def public_client(environment: Environment) -> ServingClient:
    """The same as a user has it: through the proxy, where this machine has nginx."""
    client, ports = serving_client(environment), environment.settings.ports.torchserve
    if nginx_program() is None:
        return client
    return ServingClient(client.management_url, f"http://127.0.0.1:{ports.public}")


def torchserve_folder(environment: Environment) -> Path:
    """Folder of TorchServe's configuration and archives."""
    return environment.folder / "torchserve"


@recorded("deploy")
def deploy(environment: Environment, reference: str, progress: Progress) -> Deployed:
    """Serve a stored model and move `production` to it; see `cli.deployment.deploy`.

    Refused while a trial is on.
    """
    trials.require_none(environment)
    return deployed(
        environment,
        deployment.deploy(
            environment_store(environment),
            reference,
            client=serving_client(environment),
            folder=torchserve_folder(environment),
            progress=progress,
        ),
    )


def roll_back(environment: Environment) -> Deployed:
    """Serve the model before again; see `cli.deployment.roll_back`.

    Refused while a trial is on.
    """
    trials.require_none(environment)
    return deployed(
        environment,
        deployment.roll_back(
            environment_store(environment),
            client=serving_client(environment),
            folder=torchserve_folder(environment),
        ),
    )


def deployed(environment: Environment, done: Deployment) -> Deployed:
    """Note in the audit log what a deployment changed, and say where the model answers."""
    if done.changed:
        log = environment.audit_log()
        try:
            log.append("promoted", model=done.digest, before=done.previous)
        except OSError as error:
            raise CommandError(
                f"Model {done.digest} is in production, but {log.path} could not note it "
                f"({error.strerror}): make room there, and tell who reads that log."
            ) from None
    address = f"{public_client(environment).inference_url}/predictions/{MODEL}"
    return Deployed(done.digest, done.previous, done.changed, address)


def served_digest(environment: Environment) -> str | None:
    """Digest of the model that answers now; None where none does."""
    try:
        current = serving_client(environment).serving()
    except ServingError:
        return None
    return current.digest if current is not None and current.ready else None


def recommend(environment: Environment, user: str | None, k: int) -> Recommendation:
    """Ask the served model what a user will want next.

    Parameters
    ----------
    user
        A user of the data that the model was trained on; None for the first of them.

    Raises
    ------
    CommandError
        No model serves.
    RecsysError
        There is no such user.
    """
    digest = served_digest(environment)
    if digest is None:
        raise CommandError(
            f"No model serves in {environment.name}: run hybrid up and hybrid deploy."
        )
    source = lineage_of(environment_store(environment), digest, "data")
    interactions = load_data(environment, source["address"])
    user = interactions.users[0] if user is None else user
    history = interactions.history(user)
    answer = public_client(environment).recommend(history, k, user=user)
    texts = dict(zip(interactions.items, interactions.item_text or []))
    items = [row | {"text": texts.get(row["item"], "")} for row in answer["items"]]
    return Recommendation(user, history, items, answer["model"])
