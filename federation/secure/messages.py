"""The parts of secure aggregation as text, since messages carry texts and bytes."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from federation.errors import FederationError
from federation.metrics import is_figure
from federation.secure.aggregation import Keys, Session

NONE = "none"
"""Text of a task that asks for no secure sum."""


@dataclass(frozen=True)
class Plan:
    """What a site needs to know to send its change under masks.

    Attributes
    ----------
    session : Session
    keys : dict of str to Keys
        Of the sites that sent some.
    weights : dict of str to float
        Of the sites that sent letters: their shares of all examples.
    rows : float
        Share of the rows of each table that is sent.
    """

    session: Session
    keys: dict[str, Keys]
    weights: dict[str, float]
    rows: float

    def to_text(self) -> str:
        """The plan as a part of a task."""
        parts = session_to(self.session) | {"keys": keys_to(self.keys)}
        return json.dumps(parts | {"weights": self.weights, "rows": self.rows}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Plan:
        """Read the plan of a task."""
        parts = read(text)
        try:
            weights = {str(site): float(weight) for site, weight in parts["weights"].items()}
            if not 0 < sum(weights.values()) <= 1 + 1e-9 or min(weights.values()) <= 0:
                raise ValueError("the weights do not sum to 1")
            rows = float(parts["rows"])
            return cls(session_from(parts), keys_from(parts["keys"]), weights, rows)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FederationError(f"The plan of a secure sum cannot be read ({error}).") from error


def read(text: str) -> dict[str, Any]:
    """Parse a message of the protocol."""
    try:
        parts = json.loads(text)
        if not isinstance(parts, dict):
            raise ValueError("no mapping")
    except ValueError as error:
        raise FederationError(f"A message of a secure sum cannot be read ({error}).") from error
    return parts


@contextlib.contextmanager
def answer_of(site: str) -> Iterator[None]:
    """Read what a site told: whatever is wrong with it becomes a sentence that names the site."""
    try:
        yield
    except KeyError as error:
        raise FederationError(f"Site {site!r} left {error} out of a secure sum.") from error
    except (FederationError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FederationError(
            f"Site {site!r} sent no usable part of the secure sum: {error}"
        ) from error


def examples_of(told: Mapping[str, Any]) -> int:
    """The interactions that a site says it has."""
    examples = told["examples"]
    if not is_figure(examples):
        raise ValueError(f"{examples!r} interactions.")
    return int(examples)


def session_to(session: Session) -> dict[str, Any]:
    """A session as a part of a message."""
    return {"session": session.name, "sites": list(session.sites), "size": session.size}


def session_from(parts: Mapping[str, Any]) -> Session:
    """The session of a message."""
    return Session(str(parts["session"]), tuple(map(str, parts["sites"])), int(parts["size"]))


def keys_to(keys: Mapping[str, Keys]) -> dict[str, list[str]]:
    """Public keys as a part of a message."""
    return {site: [key.masks.hex(), key.letters.hex()] for site, key in keys.items()}


def keys_from(parts: Mapping[str, list[str]]) -> dict[str, Keys]:
    """The public keys of a message."""
    return {site: Keys(*map(bytes.fromhex, pair)) for site, pair in parts.items()}


def bytes_to(parts: Mapping[str, bytes]) -> dict[str, str]:
    """Letters or shares by site as a part of a message."""
    return {site: content.hex() for site, content in parts.items()}


def bytes_from(parts: Mapping[str, str]) -> dict[str, bytes]:
    """The letters or shares of a message."""
    return {str(site): bytes.fromhex(content) for site, content in parts.items()}
