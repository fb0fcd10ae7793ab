"""The model that users are served: putting it there, putting it back, asking it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import deployment, posting, trials
from cli.application import Progress
from cli.deployment import Deployment
from cli.environment import Environment
from cli.errors import CommandError, ServingError
from cli.learning import environment_store, lineage_of, load_data
from cli.nginx import nginx_program
from cli.serving_client import RECOMMEND, ServingClient
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


def serving_client(environment: Environment, kind: str = RECOMMEND) -> ServingClient:
    """Client of the environment's TorchServe itself, for models of a kind."""
    environment.require_local("Serving")
    ports = environment.settings.ports.torchserve
    return ServingClient(
        f"http://127.0.0.1:{ports.management}", f"http://127.0.0.1:{ports.inference}", kind
    )


def public_client(environment: Environment, kind: str = RECOMMEND) -> ServingClient:
    """The same as a user has it: through the proxy, where this machine has nginx."""
    client, ports = serving_client(environment, kind), environment.settings.ports.torchserve
    if nginx_program() is None:
        return client
    return ServingClient(client.management_url, f"http://127.0.0.1:{ports.public}", kind)


def torchserve_folder(environment: Environment) -> Path:
    """Folder of TorchServe's configuration and archives."""
    return environment.folder / "torchserve"


@recorded("deploy")
def deploy(environment: Environment, reference: str, progress: Progress) -> Deployed:
    """Serve a stored model and move the channel of its kind to it; see `cli.deployment.deploy`.

    Refused while a trial of that kind is on.
    """
    store = environment_store(environment)
    kind = deployment.kind_of_model(store, store.resolve(reference))
    client = _client_for_all(environment, kind)
    folder = torchserve_folder(environment)
    done = deployment.deploy(store, reference, client=client, folder=folder, progress=progress)
    return deployed(environment, done, kind)


def roll_back(environment: Environment, kind: str = RECOMMEND) -> Deployed:
    """Serve the model of a kind before again; see `cli.deployment.roll_back`.

    Refused while a trial of that kind is on.
    """
    client, store = _client_for_all(environment, kind), environment_store(environment)
    done = deployment.roll_back(store, client=client, folder=torchserve_folder(environment))
    return deployed(environment, done, kind)


def _client_for_all(environment: Environment, kind: str) -> ServingClient:
    """A client to change what all users are served by a kind."""
    trials.require_none(environment, kind)
    return serving_client(environment, kind)


def deployed(environment: Environment, done: Deployment, kind: str = RECOMMEND) -> Deployed:
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
    address = f"{public_client(environment, kind).inference_url}/predictions/{kind}"
    return Deployed(done.digest, done.previous, done.changed, address)


def served_digest(environment: Environment, kind: str = RECOMMEND) -> str | None:
    """Digest of the model of a kind that answers now; None where none does."""
    try:
        current = serving_client(environment, kind).serving()
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
    anybody = environment.settings.events.anybody
    token = None if anybody else posting.token(environment, user, minutes=1)
    answer = public_client(environment).recommend(history, k, user=user, token=token)
    texts = dict(zip(interactions.items, interactions.item_text or []))
    items = [row | {"text": texts.get(row["item"], "")} for row in answer["items"]]
    return Recommendation(user, history, items, answer["model"])
