"""New keys for a link of two tunnels, one tunnel at a time, so that one always carries the traffic.

Pure: what a key is and how it gets to an end is the driver's business (:class:`End`). A rotation is
a value that is saved after each step; every step may be repeated, so a crash between any two
actions, or an answer that is lost, is mended by taking the same step again.

For each tunnel: make keys at both ends, move the traffic to the other tunnel, give the cloud end its
keys, then the site's, then wait until the tunnel is up. Between the two ends' changes the tunnel is
down, hence the one rule: a tunnel that is up is not touched unless the other is up too. Where none
is up, as at first, there is nothing to lose: so a link is made the way its keys are renewed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Protocol

TUNNELS = (0, 1)
PREPARE, CLOUD, SITE, VERIFY, DONE = "prepare", "cloud", "site", "verify", "done"


class NotReady(Exception):
    """The link does not allow the next step now; nothing was harmed, and it may be tried again."""

    exit_code = 1


class End(Protocol):
    """One end of the link. Every method may be called again with the same arguments."""

    def prepare(self, tunnel: int, generation: int) -> str:
        """Make the key of a generation, or find it; return what the other end must be told."""

    def apply(self, tunnel: int, generation: int, offer: str) -> None:
        """Put the generation's key to use, and the other end's offer."""

    def prefer(self, tunnel: int) -> None:
        """Send the traffic through this tunnel."""


@dataclass(frozen=True)
class Link:
    """Both ends, and whether a tunnel carries traffic from one to the other right now."""

    cloud: End
    site: End
    is_up: Callable[[int], bool]


@dataclass(frozen=True)
class Rotation:
    """How far a rotation has come.

    Attributes
    ----------
    generation
        Number of the keys that are brought in; the ones before it are replaced.
    tunnel, phase
        The step that comes next.
    cloud_offer, site_offer
        What each end must be told of the other's key: secret where keys are shared.
    """

    generation: int
    tunnel: int = TUNNELS[0]
    phase: str = PREPARE
    cloud_offer: str = ""
    site_offer: str = ""

    @property
    def done(self) -> bool:
        """Whether both tunnels have the new keys."""
        return self.phase == DONE

    def to_json(self) -> str:
        """Text for a file that only its owner may read."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Rotation:
        """The inverse; ValueError when the text is not a rotation."""
        try:
            return cls(**json.loads(text))
        except TypeError:
            raise ValueError("it holds no rotation of a link") from None


def step(rotation: Rotation, link: Link) -> Rotation:
    """Take the next step.

    Returns
    -------
    Rotation
        What is to be saved before the step after it.

    Raises
    ------
    NotReady
        The other tunnel is down, so that this one must stay as it is; or this one has its new keys
        and is not up yet.
    """
    tunnel = rotation.tunnel
    if rotation.phase == PREPARE:
        return replace(
            rotation,
            phase=CLOUD,
            cloud_offer=link.cloud.prepare(tunnel, rotation.generation),
            site_offer=link.site.prepare(tunnel, rotation.generation),
        )
    if rotation.phase == CLOUD:
        _move_traffic_off(link, tunnel)
        link.cloud.apply(tunnel, rotation.generation, rotation.site_offer)
        return replace(rotation, phase=SITE)
    if rotation.phase == SITE:
        link.site.apply(tunnel, rotation.generation, rotation.cloud_offer)
        return replace(rotation, phase=VERIFY)
    return _verify(rotation, link)


def again(rotation: Rotation) -> Rotation:
    """The rotation with this tunnel's keys to be given to both ends once more."""
    return replace(rotation, phase=CLOUD) if rotation.phase in (SITE, VERIFY) else rotation


def _verify(rotation: Rotation, link: Link) -> Rotation:
    tunnel = rotation.tunnel
    if not link.is_up(tunnel):
        raise NotReady(f"tunnel {tunnel + 1} has its new keys and is not up yet")
    if not link.is_up(1 - tunnel):
        _prefer(link, tunnel)
    if tunnel == TUNNELS[-1]:
        return Rotation(rotation.generation, tunnel, DONE)
    return Rotation(rotation.generation, tunnel + 1)


def _move_traffic_off(link: Link, tunnel: int) -> None:
    """Send the traffic through the other tunnel; refuse where this one is the only one up."""
    other = 1 - tunnel
    if link.is_up(other):
        _prefer(link, other)
    elif link.is_up(tunnel):
        _prefer(link, tunnel)
        raise NotReady(
            f"tunnel {other + 1} is down, so tunnel {tunnel + 1} keeps its keys: "
            "mend the other first"
        )


def _prefer(link: Link, tunnel: int) -> None:
    for end in (link.cloud, link.site):
        end.prefer(tunnel)
