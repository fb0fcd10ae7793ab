"""The server's part in a secure sum."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from federation.secure.aggregation import Keys, Session, unmask
from federation.secure.letters import agree
from federation.secure.messages import (
    Plan,
    bytes_from,
    bytes_to,
    examples_of,
    keys_from,
    keys_to,
    session_to,
)
from federation.secure.shares import SHARE_BYTES
from federation.secure.vectors import BOUND, Layout, layout
from federation.updates import Delta, Weights

# Two shares under a seal of 16 bytes.
LETTER_BYTES = 2 * SHARE_BYTES + 16
Told = TypeVar("Told")
# Reads what a site told; where that raises an error of its form, the site is left out.
Read = Callable[[str, dict[str, Any]], Told]
# Given questions by site, gives what was read of those whose answer can be used.
Ask = Callable[[dict[str, str], Read[Told]], Mapping[str, Told]]


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
    told = ask(dict.fromkeys(session.sites, question), _keys)
    keys, examples = ({site: pair[place] for site, pair in told.items()} for place in (0, 1))
    question = json.dumps(head | {"stage": "letters", "keys": keys_to(keys)})
    letters = ask(dict.fromkeys(sorted(keys), question), partial(_parts, "letters", set(keys), LETTER_BYTES))
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
    revealed = ask(questions, partial(_parts, "shares", set(prepared.letters), SHARE_BYTES))
    added = unmask(plan.session, plan.keys, prepared.letters.keys(), vectors, revealed)
    return prepared.layout.decode(added, sum(plan.weights[site] for site in vectors))


def _keys(site: str, told: dict[str, Any]) -> tuple[Keys, int]:
    """A site's keys, with which others can agree on secrets, and its number of examples."""
    keys = keys_from(told["keys"])[site]
    for key in (keys.masks, keys.letters):
        agree(secrets.token_bytes(32), key)
    return keys, examples_of(told)


def _parts(
    name: str, wanted: set[str], size: int, site: str, told: dict[str, Any]
) -> dict[str, bytes]:
    """A site's letters or shares, one for each of the sites `wanted`, of their one size."""
    parts = bytes_from(told[name])
    if parts.keys() != wanted or {len(part) for part in parts.values()} != {size}:
        raise ValueError(f"its {name} are not {len(wanted)} of {size} bytes.")
    return parts
