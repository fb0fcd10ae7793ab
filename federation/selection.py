"""Which sites train in a round: all, some at random, or those that promise the most.

Pure functions of the run's settings and the records of its finished rounds: asked again after a
crash they choose the same sites. Of the records they read what each round notes of a site that
trained: "examples", "loss", "seconds" (its training) and "answered" (seconds from the server's
question to the answer's last byte, so the link's measured speed is in it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Record = dict[str, Any]

RULES = ("share", "size", "utility", "speed")
# Oort's settings (Lai et al., 2021, §7.1): share of new sites at first, its decay, its least; how
# hard slowness counts; how far below the last chosen one's utility a site may still be drawn.
EXPLORED, EXPLORED_DECAY, LEAST_EXPLORED = 0.9, 0.98, 0.2
SLOWNESS_POWER = 2.0
CUT_OFF = 0.95
# Rounds after which a measured time no longer counts, so that a site that was slow gets a new try.
REMEMBERED = 10


def select(
    sites: Sequence[str],
    number: int,
    history: Sequence[Record] = (),
    *,
    rule: str = "share",
    fraction: float = 1.0,
    deadline: float = math.inf,
    seed: int = 0,
) -> list[str]:
    """Choose the sites that train in round `number`; the same ones if asked again.

    Parameters
    ----------
    sites : sequence of str
        Names to choose from, in any order.
    number : int
        The round.
    history : sequence of dict
        Records of the finished rounds.
    rule : str
        "share": at random (McMahan et al., 2017). "size": at random, in proportion to examples.
        "utility": Oort, see :func:`utilities`. "speed": those whose last answer came soonest. A
        site of which the rule needs to know more is tried first, by chance.
    fraction : float
        Share of the sites, at least one of them.
    deadline : float
        With "speed", sites whose last answer took more seconds are left out, as long as any site
        remains; with "utility", the seconds beyond which a site is slow.
    seed : int
        Seed of the choice.
    """
    ordered = sorted(sites)
    count = max(1, round(fraction * len(ordered)))
    generator = np.random.default_rng([seed, number])
    if rule == "share":
        return sorted(_drawn(generator, ordered, count))
    known = _last_known(history)
    if rule == "speed":
        known = {s: last for s, last in known.items() if last["round"] >= number - REMEMBERED}
    seen = [site for site in ordered if site in known]
    new = [site for site in ordered if site not in known]
    if rule == "utility":
        return sorted(_by_utility(generator, seen, new, count, number, history, deadline))
    tried = _drawn(generator, new, min(count, len(new)))
    left = count - len(tried)
    if rule == "size":
        sizes = np.array([known[site]["examples"] for site in seen], float)
        return sorted(tried + _drawn(generator, seen, left, sizes))
    by_time = sorted(seen, key=lambda site: (known[site]["answered"], site))
    in_time = [site for site in by_time if known[site]["answered"] <= deadline]
    return sorted(tried + in_time[:left]) or by_time[:1]


def utilities(history: Sequence[Record], number: int, deadline: float) -> dict[str, float]:
    """Oort's utility of every site that has trained (Lai et al., 2021, §4.2 and §4.4).

    Statistical utility ``|B| sqrt(mean loss²)``, where sites report the mean loss and not that of
    the squares, so its square stands for it; plus ``sqrt(0.1 log R / L)``, R this round and L
    the last one that the site trained in, scaled by the greatest statistical utility, since a loss
    over interactions is of no particular size; times ``(T / t)²`` where the last answer took t
    seconds and the deadline T is shorter. Without a deadline T is the median of the sites' times.
    """
    known = _last_known(history)
    statistical = {site: last["examples"] * abs(last["loss"]) for site, last in known.items()}
    most = max(statistical.values(), default=0.0)
    times = [last["answered"] for last in known.values()]
    preferred = deadline if math.isfinite(deadline) or not times else float(np.median(times))
    utility = {}
    for site, last in known.items():
        stale = most * math.sqrt(0.1 * math.log(max(number, 1)) / last["round"])
        slowness = min(1.0, preferred / last["answered"]) if last["answered"] > 0 else 1.0
        utility[site] = (statistical[site] + stale) * slowness**SLOWNESS_POWER
    return utility


def _by_utility(
    generator: np.random.Generator,
    seen: list[str],
    new: list[str],
    count: int,
    number: int,
    history: Sequence[Record],
    deadline: float,
) -> list[str]:
    """Some sites that never trained, and of the others by chance those of high utility."""
    share = max(LEAST_EXPLORED, EXPLORED * EXPLORED_DECAY ** (number - 1))
    explored = max(min(len(new), round(share * count)), count - len(seen))
    exploited = count - explored
    chosen = _drawn(generator, new, explored)
    utility = utilities(history, number, deadline)
    ranked = sorted(seen, key=lambda site: (-utility[site], site))
    if exploited:
        least = CUT_OFF * utility[ranked[exploited - 1]]
        pool = [site for site in ranked if utility[site] >= least]
        chosen += _drawn(generator, pool, exploited, np.array([utility[site] for site in pool]))
    return chosen


def _drawn(
    generator: np.random.Generator,
    sites: list[str],
    count: int,
    weights: np.ndarray | None = None,
) -> list[str]:
    """Sites drawn without repeats, in proportion to positive weights."""
    if not count:
        return []
    chance = None if weights is None or not weights.all() else weights / weights.sum()
    return [str(site) for site in generator.choice(sites, size=count, replace=False, p=chance)]


def _last_known(history: Sequence[Record]) -> dict[str, dict[str, float]]:
    """What the last round that each site trained in noted of it, with the number of that round."""
    known: dict[str, dict[str, float]] = {}
    for record in history:
        for site, trained in record.get("trained", {}).items():
            known[site] = trained | {"round": record["round"]}
    return known
