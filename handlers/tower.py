"""A private site's part: histories stay here, and a policy says what the cloud is told.

The site has the whole model, so it needs nobody. Where its policy lets a vector go, the cloud finds
candidates for it: always the same number, whoever asks for however many. What the user has had is
taken out here, and the candidates are ranked here by the vector as it was before any noise.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from handlers.ledger import Ledger, MayNotGo
from recsys.exact import Found, Index

LOG = logging.getLogger(__name__)
# Candidates asked for: a constant, so that it tells neither k nor how much a user has had.
CANDIDATES = 200
TIMEOUT_SECONDS = 2.0
MOST_BYTES = 1_000_000
# A noisy vector is a multiple of this share of the noise's deviation: the low bits of a sum can
# betray what the noise was added to (Mironov, 2012).
GRID = 2.0**-20


@dataclass(frozen=True)
class Policy:
    """What of its users a site tells the cloud.

    Attributes
    ----------
    shares
        ``nothing``, or ``vector``: what the model makes of a history.
    cloud
        Address of the service that finds candidates, such as https://recommend.example.
    clip
        Largest length of a vector that goes; None for no bound.
    noise
        Standard deviation of the Gaussian noise on each of its numbers, as a multiple of `clip`.
    most_vectors
        Different vectors of one user that may go, ever; None for no limit.
    """

    shares: str = "nothing"
    cloud: str | None = None
    clip: float | None = None
    noise: float = 0.0
    most_vectors: int | None = None


class CloudIndex:
    """An index whose candidates the cloud finds.

    What cannot be asked with a vector alone (filters, more items than there are candidates) is
    answered by the site's own index, and so is everything while the cloud does not answer, and what
    is asked for a user of whom no more may go, or for nobody, where there is a limit for each user.

    Parameters
    ----------
    own
        The site's index of the same items.
    places
        Of the items by id.
    digest
        Of the model; the cloud refuses vectors of another.
    policy
        With ``shares: vector``.
    ledger
        Counts vectors; None where the policy has no limit.
    """

    def __init__(
        self,
        own: Index,
        places: Mapping[str, int],
        digest: str,
        policy: Policy,
        ledger: Ledger | None = None,
    ) -> None:
        self.own, self.places, self.digest, self.policy = own, places, digest, policy
        self.ledger = ledger
        self._asking = threading.local()
        self.rows, self.scores = own.rows, own.scores
        self._key = secrets.token_bytes(32)

    @contextmanager
    def for_user(self, user: str | None) -> Iterator[None]:
        """What this thread searches meanwhile is for that user."""
        self._asking.user = user
        try:
            yield
        finally:
            del self._asking.user

    def search(self, states: np.ndarray, k: int, allowed: np.ndarray | None = None) -> Found:
        k = min(k, len(self.places))
        if allowed is not None or k > CANDIDATES:
            return self.own.search(states, k, allowed)
        values = np.empty((len(states), k), dtype=np.float32)
        places = np.empty((len(states), k), dtype=np.int64)
        for row, state in enumerate(states):
            found = self._candidates(state)
            if len(found) < k:
                values[row], places[row] = (part[0] for part in self.own.search(state[None], k))
                continue
            scores = self.own.rows(found) @ state
            best = np.argsort(-scores, kind="stable")[:k]
            values[row], places[row] = scores[best], found[best]
        return values, places

    @property
    def _user(self) -> str | None:
        """For whom this thread searches."""
        return getattr(self._asking, "user", None)

    def told(self, state: np.ndarray) -> np.ndarray:
        """What goes to the cloud of float[d]: clipped, and with noise.

        The noise follows from the vector, the user and a key that is drawn when the process starts:
        asking again gives the same, so that it cannot be averaged away, and who knows a vector of
        one user does not recognise the same history of another.
        """
        vector, policy = state.astype(np.float64), self.policy
        if policy.clip is not None:
            vector *= min(1.0, policy.clip / max(float(np.linalg.norm(vector)), 1e-12))
        if policy.noise:
            deviation = policy.noise * policy.clip
            grid = deviation * GRID
            # Of a fixed length, so that no two users and vectors make the same seed.
            user = hashlib.sha256((self._user or "").encode()).digest()
            noise = _gaussian(self._key + user + state.tobytes(), len(vector))
            vector = np.round((vector + deviation * noise) / grid) * grid
        return vector

    def _candidates(self, state: np.ndarray) -> np.ndarray:
        """int64[found] places of the items that the cloud finds; none where it is not asked."""
        known: list[int] = []
        try:
            if self.ledger:
                self.ledger.count(self._user, state.tobytes())
            asked = {
                "vector": self.told(state).tolist(),
                "model": self.digest,
                "k": min(CANDIDATES, len(self.places)),
            }
            names = [row["item"] for row in self._post(asked)["items"]]
            known = [self.places[name] for name in dict.fromkeys(names) if name in self.places]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            LOG.warning("The site answers by itself, since the cloud does not: %s", error)
        except MayNotGo as error:
            LOG.warning("The site answers by itself: %s.", error)
        return np.array(known, dtype=np.int64)

    def _post(self, asked: dict[str, Any]) -> dict[str, Any]:
        address = urlsplit(self.policy.cloud)
        secure = address.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(address.hostname, address.port, timeout=TIMEOUT_SECONDS)
        try:
            # These headers and no others, whatever the site was asked with.
            headers = {"Content-Type": "application/json"}
            connection.request("POST", "/predictions/recommend", json.dumps(asked), headers)
            response = connection.getresponse()
            body = response.read(MOST_BYTES)
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"{response.status} {body[:300].decode(errors='replace')}")
        return json.loads(body)


def read_histories(file: Path) -> dict[str, tuple[str, ...]]:
    """The histories that `hybrid data histories` wrote: ``[user, [item, ...]]`` on each line.

    Raises
    ------
    ValueError
        A line is something else.
    """
    histories: dict[str, tuple[str, ...]] = {}
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                user, items = json.loads(line)
                if not isinstance(user, str) or not all(isinstance(item, str) for item in items):
                    raise TypeError
            except (ValueError, TypeError):
                raise ValueError(f"line {number} of {file} is no [user, [item, ...]]") from None
            histories[user] = tuple(items)
    return histories


def _gaussian(seed: bytes, count: int) -> np.ndarray:
    """float64[count] normal numbers (Box and Muller) of SHAKE-256's stream under a secret seed."""
    pairs = -(-count // 2)
    stream = np.frombuffer(hashlib.shake_256(seed).digest(16 * pairs), dtype="<u8")
    uniform = ((stream >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    radius, angle = np.sqrt(-2 * np.log(uniform[:pairs])), 2 * np.pi * uniform[pairs:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]
