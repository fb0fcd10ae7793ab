"""A site's answers in a secure sum."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from federation.errors import FederationError
from federation.files import write_private
from federation.secure.aggregation import Member, conceal, keys_of, reveal, share
from federation.secure.messages import (
    Plan,
    bytes_from,
    bytes_to,
    keys_from,
    keys_to,
    read,
    session_from,
)
from federation.secure.vectors import BOUND, layout
from federation.updates import Delta, Weights


def answer(
    text: str, *, site: str, secret: bytes, examples: int, folder: Path
) -> dict[str, Any]:
    """Answer a question of the first, second or fourth exchange.

    Parameters
    ----------
    secret
        The site's key.
    examples
        What the site's weight in the sum follows from.
    folder
        Where the site notes what it revealed.

    Raises
    ------
    FederationError
        If the question is none, or asks for more than a site may reveal.
    """
    parts = read(text)
    try:
        member = Member(session_from(parts), site, secret)
        stage = parts["stage"]
        if stage == "keys":
            told: dict[str, Any] = {"keys": keys_to({site: keys_of(member)}), "examples": examples}
        elif stage == "letters":
            told = {"letters": bytes_to(share(member, keys_from(parts["keys"])))}
        elif stage == "reveal":
            survivors = sorted(map(str, parts["survivors"]))
            _note(folder, member.session.name, survivors)
            keys, letters = keys_from(parts["keys"]), bytes_from(parts["letters"])
            told = {"shares": bytes_to(reveal(member, keys, letters, survivors))}
        else:
            raise ValueError(f"the stage {stage!r}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FederationError(f"The question of a secure sum is none ({error}).") from error
    return told


def masked_change(
    text: str, delta: Delta, weights: Weights, *, site: str, secret: bytes, about: str,
    seed: int, number: int,
) -> bytes:  # fmt: skip
    """The third exchange: a change of the model under masks.

    Parameters
    ----------
    text
        The plan in the task.
    about
        What the session's name must begin with: the run, the round and the digest of the task. A
        session under another name could serve two changes, whose difference would be bare.
    """
    plan = Plan.from_text(text)
    if not plan.session.name.startswith(f"{about}/"):
        raise FederationError(f"The secure sum {plan.session.name!r} is not about this task.")
    if site not in plan.weights:
        raise FederationError(f"Site {site!r} is none of the secure sum's.")
    sent = layout(weights, share=plan.rows, seed=seed, number=number, bound=BOUND)
    if sent.size != plan.session.size:
        raise FederationError(f"The secure sum is of {plan.session.size} numbers, not {sent.size}.")
    vector = sent.encode(delta, plan.weights[site])
    member = Member(plan.session, site, secret)
    return conceal(member, plan.keys, plan.weights.keys(), vector).astype("<u4").tobytes()


def _note(folder: Path, session: str, survivors: list[str]) -> None:
    """Refuse to reveal for a second set of survivors: the two would uncover a site."""
    path = folder / "revealed.json"
    told = {"session": session, "survivors": survivors}
    try:
        before = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        before = {}
    if before.get("session") == session and before != told:
        raise FederationError(
            f"The server asks again for the masks of {session!r}, of other sites: refused."
        )
    write_private(path, json.dumps(told).encode())
