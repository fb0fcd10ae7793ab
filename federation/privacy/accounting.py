"""What a series of noisy sums gives away of one user: its ε, by Rényi differential privacy.

The accountant is Google's dp-accounting. Neighbouring data sets differ by the presence of one
user, with everything that the user did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from federation.errors import FederationError

# Whole orders only: the accountant has closed forms for them, and no others are better by much.
ORDERS = [*range(2, 33), 40, 48, 64, 96, 128, 256]
# A little below the budget, so that no rounding lies above it.
MARGIN = 0.999


@dataclass(frozen=True)
class Release:
    """Noisy sums over users, each a step of training that left a site.

    Attributes
    ----------
    sampling : float
        Chance of each user to be in a sum, drawn for each anew (Poisson sampling).
    noise : float
        Deviation of the noise over the largest norm that one user can add.
    steps : int
        Number of sums.
    """

    sampling: float
    noise: float
    steps: int


def epsilon(releases: Iterable[Release], delta: float) -> float:
    """ε at δ of all the releases together, for a user who may be in each of them."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    steps: Counter[tuple[float, float]] = Counter()
    for release in releases:
        steps[release.sampling, release.noise] += release.steps
    if not steps:
        return 0.0
    accountant = RdpAccountant(ORDERS)
    for (sampling, noise), count in sorted(steps.items()):
        accountant.compose(PoissonSampledDpEvent(sampling, GaussianDpEvent(noise)), count)
    return float(accountant.get_epsilon(delta))


def noise_for(
    budget: float, delta: float, *, sampling: float, steps: int, spent: Iterable[Release] = ()
) -> float:
    """The least noise with which `steps` more sums keep within a budget.

    Raises
    ------
    FederationError
        If what was spent leaves nothing of the budget.
    """
    spent = list(spent)
    if (used := epsilon(spent, delta)) >= budget * MARGIN:
        raise FederationError(
            f"The privacy budget is spent: epsilon is {used:.2f} of {budget:g} at delta {delta:g}. "
            "Start from a model that was trained on other users, or raise --dp-epsilon."
        )

    def within(noise: float) -> bool:
        return epsilon([*spent, Release(sampling, noise, steps)], delta) <= budget * MARGIN

    low, high = 0.0, 1.0
    while not within(high):
        low, high = high, 2 * high
        if high > 1e6:
            raise FederationError(
                f"No noise keeps {steps} more steps within epsilon {budget:g} at delta {delta:g}, "
                f"of which {used:.2f} is spent: train fewer rounds, or raise --dp-epsilon."
            )
    while high - low > 3e-3 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle) else (middle, high)
    return high
