"""The ledger of what was spent of users' privacy, kept with the model and at each site.

A file of JSON lines, one for each round of a run at a site. A run's ledger begins as a copy of the
ledger of the model that it starts from, and the model that it makes carries it on: ε is that of
all the training that went into the model, over all runs. A site keeps a ledger of its own, over
all the models that it ever helped to train.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from federation.errors import FederationError
from federation.files import room_for, write_private
from federation.privacy.accounting import Release, epsilon

# Name of a ledger's file in the folder of a model, of a run and of a site.
LEDGER = "privacy.jsonl"


class BudgetSpent(FederationError):
    """The next round would exceed the privacy budget."""

    def __init__(self, site: str, epsilon: float, budget: float, delta: float) -> None:
        super().__init__(
            f"{_SPENT} {site!r} does not allow another round: epsilon would be {epsilon:.2f} of "
            f"{budget:g} at delta {delta:g}."
        )


_SPENT = "The privacy budget of site"


def budget_spent(error: FederationError) -> bool:
    """Whether an error is a spent budget's: a site's own comes to the server as text."""
    return _SPENT in str(error)


@dataclass(frozen=True)
class Entry:
    """What one round of one run takes out of a site's users.

    Attributes
    ----------
    run, site, round
        Who spent it, and where.
    request : str
        Digest of all that decides the answer. The same request repeated after a crash has the
        same answer, noise included, and so costs nothing more; another one does.
    sampling, noise, steps
        See :class:`federation.privacy.accounting.Release`.
    """

    run: str
    site: str
    round: int
    request: str
    sampling: float
    noise: float
    steps: int

    @property
    def release(self) -> Release:
        """The part that the accountant needs."""
        return Release(self.sampling, self.noise, self.steps)


class Ledger:
    """The ledger in a file, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """All entries, in the order in which they were charged.

        Raises
        ------
        FederationError
            If the file is damaged. A ledger is never begun anew: that would forget what is spent.
        """
        try:
            lines = self.path.read_text().splitlines()
        except FileNotFoundError:
            return []
        try:
            entries = [Entry(**json.loads(line)) for line in lines]
            if not all(_plausible(entry) for entry in entries):
                raise ValueError("a number is out of range")
        except (ValueError, TypeError) as error:
            raise FederationError(
                f"The privacy ledger {self.path} is damaged ({error}): restore it from a copy."
            ) from error
        return entries

    def epsilon(self, delta: float) -> float:
        """ε at δ of the site where most was spent.

        That is every user's ε where no two sites have a user in common: what one site sends then
        tells nothing of the users of another.
        """
        by_site: defaultdict[str, list[Release]] = defaultdict(list)
        for entry in self.entries():
            by_site[entry.site].append(entry.release)
        return max((epsilon(releases, delta) for releases in by_site.values()), default=0.0)

    def epsilon_of_all(self, delta: float) -> float:
        """ε at δ of a person who is a user of every site."""
        return epsilon([entry.release for entry in self.entries()], delta)

    def charge(self, entries: list[Entry], budget: float, delta: float) -> float:
        """Write entries down before what they pay for is done; returns the ε then spent.

        Entries that are already there are not charged again.

        Raises
        ------
        BudgetSpent
            If they would exceed the budget; then nothing is written.
        FederationError
            If the ledger is damaged, or the disk is full.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Two runs at one site share its ledger; each must see what the other has spent.
        with FileLock(f"{self.path}.lock"):
            present = self.entries()
            wanted = present + [entry for entry in entries if entry not in present]
            for site in {entry.site for entry in entries}:
                after = epsilon([entry.release for entry in wanted if entry.site == site], delta)
                if wanted != present and after > budget:
                    raise BudgetSpent(site, after, budget, delta)
            if wanted != present:
                lines = "".join(json.dumps(asdict(entry)) + "\n" for entry in wanted)
                with room_for(self.path):
                    write_private(self.path, lines.encode())
        return self.epsilon(delta)


def _plausible(entry: Entry) -> bool:
    return 0 < entry.sampling <= 1 and 0 < entry.noise < math.inf and entry.steps >= 1
