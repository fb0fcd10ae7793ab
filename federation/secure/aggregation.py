"""Sums of the sites' vectors of which the server learns nothing but the sum.

The protocol of Bonawitz et al. (2017, "Practical secure aggregation for privacy-preserving machine
learning", figure 4) for a server and sites that keep to it, with sites that drop out. Each pair of
sites agrees on a mask that one adds and the other subtracts, and each site adds one more of its
own. What it takes to remove the masks of those who dropped out, or the own masks of those who did
not, is shared among all sites: the server may have the one or the other of a site, never both.

==============  =========================================  ==================================
exchange        a site sends                               the server passes on
==============  =========================================  ==================================
:func:`keys_of` two public keys                            all sites' keys
:func:`share`   sealed shares of two secrets, one a site   to each site the shares for it
:func:`conceal` its vector under all masks                 who sent one
:func:`reveal`  the shares that the server needs           :func:`unmask`: the sum
==============  =========================================  ==================================

Every secret of a site follows from one key and the session, so a site that was killed says the
same again. A session must therefore never be used for two different vectors.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from federation.errors import FederationError
from federation.keystream import Keystream, derive
from federation.secure.letters import agree, box, public
from federation.secure.shares import SHARE_BYTES, join, split

FEWEST_SITES, MOST_SITES = 2, 50


@dataclass(frozen=True)
class Session:
    """One sum.

    Attributes
    ----------
    name : str
        Differs from that of every other sum.
    sites : tuple of str
        Who may take part, 2 to 50, in ascending order.
    size : int
        Length of the vectors.
    """

    name: str
    sites: tuple[str, ...]
    size: int

    def __post_init__(self) -> None:
        """Refuse sessions in which one site would stand alone."""
        if not FEWEST_SITES <= len(self.sites) <= MOST_SITES:
            raise FederationError(
                f"Secure aggregation needs {FEWEST_SITES} to {MOST_SITES} sites, not "
                f"{len(self.sites)}: choose other sites, or leave it off."
            )
        if list(self.sites) != sorted(set(self.sites)):
            raise FederationError("The sites of a secure sum must be in order, none twice.")

    @property
    def threshold(self) -> int:
        """Sites that must stay to the end: more than half, and never a single one."""
        return len(self.sites) // 2 + 1

    def require(self, present: Collection[str], what: str) -> None:
        """Refuse to go on without enough sites."""
        if len(present) < self.threshold:
            raise FederationError(
                f"Only {len(present)} of {len(self.sites)} sites {what}; the sum needs "
                f"{self.threshold}, so it was given up and no site's vector is known."
            )
        if strange := sorted(set(present) - set(self.sites)):
            raise FederationError(f"Site {strange[0]!r} is none of the secure sum's.")


@dataclass(frozen=True)
class Keys:
    """A site's public keys of a session: X25519, 32 bytes each."""

    masks: bytes
    letters: bytes


@dataclass(frozen=True)
class Member:
    """A site within a session.

    Attributes
    ----------
    session : Session
    site : str
    secret : bytes
        The site's own key of 32 bytes, which never leaves it.
    """

    session: Session
    site: str
    secret: bytes

    def _derived(self, purpose: str) -> bytes:
        return derive(self.secret, f"secure aggregation/{self.session.name}/{purpose}")

    @property
    def mask_key(self) -> bytes:
        """Private key of the masks that pairs share."""
        return self._derived("mask key")

    @property
    def letter_key(self) -> bytes:
        """Private key that seals and opens shares."""
        return self._derived("letter key")

    @property
    def own_seed(self) -> bytes:
        """Key of the mask that only this site has."""
        return self._derived("own mask")

    def coefficients(self) -> Keystream:
        """What the shares of this site's secrets are made with."""
        return Keystream(self._derived("shares"), "coefficients")


def keys_of(member: Member) -> Keys:
    """First exchange: what others need to agree on keys with this site."""
    return Keys(public(member.mask_key), public(member.letter_key))


def share(member: Member, keys: Mapping[str, Keys]) -> dict[str, bytes]:
    """Second exchange: for each site with keys a sealed letter with its shares of both secrets."""
    session = member.session
    session.require(keys, "sent their keys")
    if keys.get(member.site) != keys_of(member):
        raise FederationError(f"Site {member.site!r} was told other keys of its own than it sent.")
    source = member.coefficients()
    count = len(session.sites)
    halves = zip(
        split(member.mask_key, session.threshold, count, source),
        split(member.own_seed, session.threshold, count, source),
        strict=True,
    )
    letters = {}
    for site, (first, second) in zip(session.sites, halves, strict=True):
        if site in keys:
            letter = _box(member, keys[site], member.site, site)
            # A constant nonce: each box is for one letter.
            letters[site] = letter.encrypt(bytes(12), first + second, None)
    return letters


def conceal(
    member: Member, keys: Mapping[str, Keys], shared: Collection[str], vector: np.ndarray
) -> np.ndarray:
    """Third exchange: the vector under this site's masks.

    Parameters
    ----------
    shared
        The sites that sent letters.
    vector
        uint32[size].

    Returns
    -------
    ndarray
        uint32[size], which looks like noise to whoever lacks the masks.
    """
    session = member.session
    session.require(shared, "shared their keys")
    if unknown := sorted(set(shared) - keys.keys()):
        raise FederationError(f"The server names no keys of site {unknown[0]!r}.")
    if vector.shape != (session.size,) or vector.dtype != np.uint32:
        raise ValueError(f"{vector.dtype}{list(vector.shape)} for uint32[{session.size}]")
    masked = vector + _mask(member.own_seed, session)
    for other in sorted(set(shared) - {member.site}):
        mask = _pair_mask(member.mask_key, keys[other].masks, session)
        masked = masked + mask if member.site < other else masked - mask
    return masked


def reveal(
    member: Member,
    keys: Mapping[str, Keys],
    letters: Mapping[str, bytes],
    survivors: Collection[str],
) -> dict[str, bytes]:
    """Fourth exchange: of each site the one share that lets the server remove its masks.

    Parameters
    ----------
    letters
        By sender: what this site received in the second exchange.
    survivors
        The sites whose masked vector the server has.

    Raises
    ------
    FederationError
        If so few sites are left that the sum would say too much, or a letter was changed.
    """
    member.session.require(survivors, "sent their vector")
    if not set(survivors) <= set(letters):
        raise FederationError("The server asks for the mask of a site that shared none.")
    shares = {}
    for sender in sorted(letters):
        sealed = _box(member, keys[sender], sender, member.site)
        try:
            letter = sealed.decrypt(bytes(12), letters[sender], None)
        except InvalidTag as error:
            raise FederationError(
                f"The shares of site {sender!r} for site {member.site!r} were changed on the way."
            ) from error
        own = sender in survivors
        shares[sender] = letter[SHARE_BYTES:] if own else letter[:SHARE_BYTES]
    return shares


def unmask(
    session: Session,
    keys: Mapping[str, Keys],
    shared: Collection[str],
    masked: Mapping[str, np.ndarray],
    revealed: Mapping[str, Mapping[str, bytes]],
) -> np.ndarray:
    """At the server: the sum of the vectors behind `masked`.

    Parameters
    ----------
    shared
        The sites that sent letters, so that others added masks for them.
    masked, revealed
        By site: what it sent in the third and fourth exchange.

    Returns
    -------
    ndarray
        uint32[size].

    Raises
    ------
    FederationError
        If fewer sites than the threshold revealed their shares, or the shares are wrong.
    """
    session.require(masked, "sent their vector")
    session.require(revealed, "helped to remove the masks")
    holders = {site: number for number, site in enumerate(session.sites)}

    def secret_of(owner: str) -> bytes:
        held = {holders[site]: told[owner] for site, told in revealed.items() if owner in told}
        if len(held) < session.threshold:
            raise FederationError(f"Too few sites told their share of the masks of site {owner!r}.")
        return join(dict(sorted(held.items())[: session.threshold]))

    total = _sum(masked.values(), session)
    for site in sorted(masked):
        total -= _mask(secret_of(site), session)
    for lost in sorted(set(shared) - masked.keys()):
        private = secret_of(lost)
        for site in sorted(masked):
            mask = _pair_mask(private, keys[site].masks, session)
            total = total - mask if site < lost else total + mask
    return total


def _sum(vectors: Iterable[np.ndarray], session: Session) -> np.ndarray:
    total = np.zeros(session.size, np.uint32)
    for vector in vectors:
        if vector.shape != total.shape or vector.dtype != total.dtype:
            raise FederationError(
                f"A site sent {vector.dtype}{list(vector.shape)} in a secure sum of "
                f"uint32[{session.size}]."
            )
        total += vector
    return total


def _mask(seed: bytes, session: Session) -> np.ndarray:
    return Keystream(seed, f"own mask/{session.name}").words(session.size)


def _pair_mask(private: bytes, public: bytes, session: Session) -> np.ndarray:
    seed = agree(private, public)
    return Keystream(seed, f"pair mask/{session.name}").words(session.size)


def _box(member: Member, other: Keys, sender: str, receiver: str) -> ChaCha20Poly1305:
    """Seals and opens the one letter that `sender` writes to `receiver` in a session."""
    return box(member.letter_key, other.letters, f"{member.session.name}/{sender}/{receiver}")
