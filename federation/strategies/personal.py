"""Layers that stay at each site, for what differs between sites and need not be shared.

FedBN (Li et al., 2021) keeps normalisation layers at the site; of a transformer over a user's
events, position embeddings may be kept as well. The server never sees them: its model has them as
they were at the start, and each site puts its own in their place before it evaluates or trains.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from federation.errors import FederationError
from federation.updates import Delta, Weights


def personal_names(weights: Weights, patterns: Iterable[str]) -> list[str]:
    """Names of the arrays that stay at a site, in order.

    Parameters
    ----------
    patterns : iterable of str
        Names, with ``*`` for any text: ``*norm*`` are the layer norms, ``position_embedding.*``
        the positions.

    Raises
    ------
    FederationError
        If a pattern names no array, or nothing would be left to share.
    """
    names: set[str] = set()
    for pattern in patterns:
        found = {name for name in weights if fnmatchcase(name, pattern)}
        if not found:
            raise FederationError(
                f"{pattern!r} names no layer of the model; its layers are "
                f"{', '.join(sorted(weights))}."
            )
        names |= found
    if names == weights.keys():
        raise FederationError("All layers would stay at the sites: nothing is left to share.")
    return sorted(names)


def shared(delta: Delta, personal: Iterable[str]) -> Delta:
    """What a site sends: the change without its personal arrays."""
    return {name: change for name, change in delta.items() if name not in set(personal)}


def with_personal(received: Weights, own: Weights, personal: Iterable[str]) -> Weights:
    """The received model with the site's own arrays, where it has kept any yet."""
    return received | {name: own[name] for name in personal if name in own}
