"""The server's part in a secure sum."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from federation.errors import FederationError
from federation.secure.aggregation import Session, unmask
from federation.secure.messages import (
    Plan,
    bytes_from,
    bytes_to,
    keys_from,
    keys_to,
    session_to,
)
from federation.secure.vectors import BOUND, Layout, layout
from federation.updates import Delta, Weights

# Given questions by site, gives the answers of those that answered.
Ask = Callable[[dict[str, str]], Mapping[str, dict[str, Any]]]


@dataclass(frozen=True)
class Prepared:
    """A sum of which keys and shares have been exchanged.

    Attributes
    ----------
    plan : Plan
        For the sites' tasks.
    letters : dict of str to dict of str to bytes
        By sender and receiver.
    layout : Layout
        Of the vectors.
    """

    plan: Plan
    letters: dict[str, dict[str, bytes]]
    layout: Layout


def prepare(
    ask: Ask, weights: Weights, chosen: list[str], *, about: str, rows: float, seed: int,
    number: int,
) -> Prepared:  # fmt: skip
    """The first two exchanges.

    Parameters
    ----------
    about
        Run, round and digest of the task, see :func:`federation.secure.site.masked_change`.
    """
    sent = layout(weights, share=rows, seed=seed, number=number, bound=BOUND)
    # Whatever happened to an earlier attempt at this round, its masks are not used again.
    name = f"{about}/{secrets.token_hex(8)}"
    session = Session(name, tuple(sorted(chosen)), sent.size)
    head = session_to(session)
    question = json.dumps(head | {"stage": "keys"})
    keys, examples = {}, {}
    for site, told in ask(dict.fromkeys(session.sites, question)).items():
        keys[site] = keys_from(_part(told, "keys", site))[site]
        examples[site] = int(_part(told, "examples", site))
    question = json.dumps(head | {"stage": "letters", "keys": keys_to(keys)})
    letters = {
        site: bytes_from(_part(told, "letters", site))
        for site, told in ask(dict.fromkeys(sorted(keys), question)).items()
    }
    session.require(letters, "shared their keys")
    total = sum(max(examples[site], 1) for site in letters)
    shares = {site: max(examples[site], 1) / total for site in sorted(letters)}
    return Prepared(Plan(session, keys, shares, rows), letters, sent)


def total(ask: Ask, prepared: Prepared, masked: Mapping[str, bytes]) -> Delta:
    """The fourth exchange: the weighted mean of the changes behind the masked vectors."""
    plan = prepared.plan
    vectors = {site: np.frombuffer(sent, "<u4").astype(np.uint32) for site, sent in masked.items()}
    plan.session.require(vectors, "sent their vector")
    head = session_to(plan.session) | {
        "stage": "reveal", "keys": keys_to(plan.keys), "survivors": sorted(vectors),
    }  # fmt: skip
    questions = {}
    for site in sorted(vectors):
        inbox = {sender: sent[site] for sender, sent in prepared.letters.items()}
        questions[site] = json.dumps(head | {"letters": bytes_to(inbox)})
    revealed = {
        site: bytes_from(_part(told, "shares", site)) for site, told in ask(questions).items()
    }
    added = unmask(plan.session, plan.keys, prepared.letters.keys(), vectors, revealed)
    return prepared.layout.decode(added, sum(plan.weights[site] for site in vectors))


def _part(told: dict[str, Any], name: str, site: str) -> Any:
    if name not in told:
        raise FederationError(f"Site {site!r} left {name!r} out of a secure sum.")
    return told[name]
