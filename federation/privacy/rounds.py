"""A private run, round by round: its terms, and what server and site do under them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from federation.errors import FederationError
from federation.files import write_private
from federation.keystream import KEY_BYTES, Keystream
from federation.privacy.accounting import noise_for
from federation.privacy.ledger import LEDGER, Entry, Ledger
from federation.privacy.training import SAMPLING, Privacy, train_private
from recsys.data.interactions import Interactions
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe


@dataclass(frozen=True)
class Terms:
    """What a run asks of its sites.

    Attributes
    ----------
    epsilon, delta : float
        The budget of every user, over all that went into the model.
    clip, noise, sampling : float
        See :class:`federation.privacy.training.Privacy`.
    """

    epsilon: float
    delta: float
    clip: float
    noise: float
    sampling: float = SAMPLING

    @property
    def training(self) -> Privacy:
        """What training must keep to."""
        return Privacy(self.clip, self.noise, self.sampling)

    def to_text(self) -> str:
        """The terms as a part of a task."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Terms:
        """Read the terms of a task.

        Raises
        ------
        FederationError
            If they are none, or out of range: a site does not take the server's word for it.
        """
        try:
            terms = cls(**json.loads(text))
            values = asdict(terms).values()
            sound = all(0 < value < 1e9 for value in values) and terms.sampling <= 1
        except (ValueError, TypeError) as error:
            raise FederationError(f"The task's terms of privacy cannot be read ({error}).") from error
        if not sound or terms.delta >= 1:
            raise FederationError(f"The task's terms of privacy are out of range: {text}.")
        return terms

    def entry(self, run: str, site: str, number: int, request: str, epochs: int) -> Entry:
        """What a round costs at a site."""
        steps = self.training.steps(epochs)
        return Entry(run, site, number, request, self.sampling, self.noise, steps)


def agree_terms(
    run: Path, *, epsilon: float, delta: float, clip: float, rounds: int, local_epochs: int
) -> Terms:
    """Terms under which a run of so many rounds just keeps within its budget.

    The run's ledger begins as that of the model in ``initial/``. Called again after a crash, it
    gives the same terms.

    Raises
    ------
    FederationError
        If the training of the model has spent the budget before.
    """
    before = run / "initial" / LEDGER
    if before.exists() and not (run / LEDGER).exists():
        write_private(run / LEDGER, before.read_bytes())
    spent = Ledger(before).entries()
    steps = rounds * Privacy(clip, 1.0).steps(local_epochs)
    worst = max(
        (
            noise_for(
                epsilon, delta, sampling=SAMPLING, steps=steps,
                spent=[entry.release for entry in spent if entry.site == site],
            )
            for site in {entry.site for entry in spent} or {""}
        )
    )  # fmt: skip
    return Terms(epsilon, delta, clip, worst)


def keep_with_model(run: Path, artifact: Path) -> None:
    """Put the run's ledger into the folder of the model that it made, if there is one."""
    if (run / LEDGER).exists():
        shutil.copyfile(run / LEDGER, artifact / LEDGER)


def charge(
    ledger: Ledger, terms: Terms, run: str, number: int, requests: Iterable[tuple[str, str]],
    epochs: int,
) -> float:  # fmt: skip
    """Charge a round to a ledger before it begins; returns the ε then spent.

    Parameters
    ----------
    requests
        Sites with the digest of what each is asked.

    Raises
    ------
    BudgetSpent
        If the round would exceed the budget.
    """
    entries = [terms.entry(run, site, number, request, epochs) for site, request in requests]
    return ledger.charge(entries, terms.epsilon, terms.delta)


def train_round(
    model: SequentialRecommender,
    interactions: Interactions,
    recipe: Recipe,
    terms: Terms,
    folder: Path,
    *,
    run: str,
    site: str,
    number: int,
    request: str,
    epochs: int,
) -> float:
    """A site's training in one round, in place; returns its noisy loss.

    The noise follows from the site's own key, the request and the data. The same request after a
    crash has the same answer, so that it tells nothing new; another one has other noise.

    Parameters
    ----------
    folder
        Where the site keeps its key and its own ledger, over all runs.

    Raises
    ------
    BudgetSpent
        If the site's own ledger does not allow the round, whatever the server says.
    """
    charge(Ledger(folder / LEDGER), terms, run, number, [(site, request)], epochs)
    data = hashlib.sha256(interactions.sequence.tobytes() + interactions.offsets.tobytes())
    source = Keystream(site_key(folder), f"privacy/{request}/{data.hexdigest()}")
    return train_private(model, interactions, recipe, terms.training, source, epochs=epochs)


def site_key(folder: Path) -> bytes:
    """The site's secret, drawn from the operating system at the first call and never sent."""
    path = folder / "site.key"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            write_private(path, os.urandom(KEY_BYTES))
        key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise FederationError(f"{path} is damaged: delete it, and start the runs under way anew.")
    return key
