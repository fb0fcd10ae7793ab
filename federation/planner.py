"""What a federated run will move, wait and cost, before it starts; and how to stay in a budget.

Pure arithmetic: sizes come from the model, speeds from what was measured, the price from a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any, NamedTuple

from federation.compression import Compression
from federation.errors import FederationError

# From the one that keeps most of each change to the one that keeps least.
SCHEMES = (
    Compression("none"),
    Compression("rows"),
    Compression("int8"),
    Compression("signs"),
    *(Compression("topk", share) for share in (0.1, 0.05, 0.02, 0.01)),
)
# Passes over its own data that a site may make in a round, as a multiple of those asked for.
STRETCHES = (1, 2, 4)
FEWEST_SITES = 2
# What zlib leaves of an element and of a row's scale, of a quantised element where only the largest
# are sent, and of the header, about.
ROW_BITS = {"rows": (28, 0), "int8": (8, 32), "signs": (1.45, 6)}
ELEMENT_BITS = 4.6
MESSAGE_BYTES = 350


@dataclass(frozen=True)
class Site:
    """What is known of a site.

    Attributes
    ----------
    name : str
        Its name.
    touched : float
        Share of the tables' rows that its training changes in one pass, in [0, 1].
    bandwidth : float or None
        Measured bytes a second between server and site; None if nobody measured it.
    epoch_seconds : float or None
        Measured seconds of a pass over its data; None before its first round.
    """

    name: str
    touched: float = 1.0
    bandwidth: float | None = None
    epoch_seconds: float | None = None


class Measured(NamedTuple):
    """Of a site: bytes a second between it and the server, and seconds of a pass over its data."""

    bandwidth: float
    epoch_seconds: float


@dataclass(frozen=True)
class Budget:
    """What the whole run may take; None is no limit. Bytes, seconds, US dollars."""

    bytes: float | None = None
    seconds: float | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Plan:
    """How a run goes, and what it takes.

    Attributes
    ----------
    compression : Compression
        Of every message but the first, which is the whole model.
    rounds, local_epochs : int
        Rounds, and passes over its own data that a site makes in each.
    sites : tuple of str
        Those that take part.
    bytes_down, bytes_up : int
        Of a round, to and from all sites, once each site has the model.
    seconds : float or None
        Of a round, until all the answers have come that it waits for; None where a site was never
        measured.
    cost : float
        US dollars of a round for what leaves the cloud.
    run_bytes, run_seconds, run_cost
        The same for all rounds, the first whole model and the last evaluation included.
    """

    compression: Compression
    rounds: int
    local_epochs: int
    sites: tuple[str, ...]
    bytes_down: int
    bytes_up: int
    seconds: float | None
    cost: float
    run_bytes: int
    run_seconds: float | None
    run_cost: float

    def fits(self, budget: Budget) -> bool:
        """Whether the run stays within the budget."""
        pairs = (
            (budget.bytes, self.run_bytes),
            (budget.seconds, self.run_seconds),
            (budget.cost, self.run_cost),
        )
        return all(most is None or (took is not None and took <= most) for most, took in pairs)


def plan(
    shapes: Mapping[str, tuple[int, ...]],
    sites: Sequence[Site],
    compression: Compression,
    *,
    rounds: int,
    local_epochs: int,
    price: float,
    buffer: int = 0,
    at_once: int = 0,
) -> Plan:
    """Reckon what a run takes.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of the model's trained arrays, all float32.
    sites : sequence of Site
        Those that take part.
    compression : Compression
        Of the changes.
    rounds, local_epochs : int
        See :class:`Plan`.
    price : float
        US dollars for a GB (10⁹ bytes) that leaves the cloud.
    buffer : int
        Answers that end a round, if it does not wait for all sites (FedBuff).
    at_once : int
        Sites that are at work at a time; 0 for all.
    """
    whole = message_bytes(shapes, Compression("none"), 1.0)
    shares = [_reached(site.touched, local_epochs) for site in sites]
    # A row changes if it changes at any site.
    everywhere = 1 - math.prod(1 - share for share in shares)
    down = message_bytes(shapes, compression, everywhere)
    ups = [message_bytes(shapes, compression, share) for share in shares]
    # Of a round that does not wait: so many sites get a model and answer.
    part = buffer / len(sites) if buffer else 1.0
    round_down, round_up = round(part * len(sites) * down), round(part * sum(ups))
    # Rounds + 1 models go down, the first one whole; the last is only evaluated, by all.
    run_down = len(sites) * (whole + down) + (rounds - 1) * round_down
    run_up = rounds * round_up
    first, usual = (
        _seconds(sites, ups, size, local_epochs, buffer, at_once) for size in (whole, down)
    )
    last = _seconds(sites, [0] * len(sites), down, 0, 0, at_once)
    known = first is not None and usual is not None and last is not None
    return Plan(
        compression=compression,
        rounds=rounds,
        local_epochs=local_epochs,
        sites=tuple(site.name for site in sites),
        bytes_down=round_down,
        bytes_up=round_up,
        seconds=usual,
        cost=round_down / 1e9 * price,
        run_bytes=run_down + run_up,
        run_seconds=first + (rounds - 1) * usual + last if known else None,
        run_cost=run_down / 1e9 * price,
    )


def choose(
    shapes: Mapping[str, tuple[int, ...]],
    sites: Sequence[Site],
    budget: Budget,
    *,
    rounds: int,
    local_epochs: int,
    price: float,
    buffer: int = 0,
    at_once: int = 0,
    schemes: Sequence[Compression] = SCHEMES,
) -> Plan:
    """Pick the run that loses least and stays in the budget.

    First compression gets stronger. If the strongest is not enough, sites make more passes in
    fewer rounds, the passes over all rounds the same. Only then are sites left out, slow ones first.

    Raises
    ------
    FederationError
        If no run stays in the budget, or a budget of seconds meets a site that was not measured.
    """
    if budget.seconds is not None:
        unmeasured = [s.name for s in sites if s.bandwidth is None or s.epoch_seconds is None]
        if unmeasured:
            raise FederationError(
                f"A budget of seconds needs measured sites, and {', '.join(unmeasured)} never "
                "trained here: run a round without this budget first, or give one of bytes."
            )
    tried: list[Plan] = []
    for fewer in (left for left in _fewer_sites(sites) if len(left) >= buffer):
        for stretch in (times for times in STRETCHES if times <= rounds):
            for scheme in schemes:
                candidate = plan(
                    shapes,
                    fewer,
                    scheme,
                    rounds=math.ceil(rounds / stretch),
                    local_epochs=local_epochs * stretch,
                    price=price,
                    buffer=buffer,
                    at_once=at_once,
                )
                if candidate.fits(budget):
                    return candidate
                tried.append(candidate)
    raise FederationError(f"No run stays in the budget: {_told(tried)}.")


def message_bytes(
    shapes: Mapping[str, tuple[int, ...]], compression: Compression, touched: float
) -> int:
    """Bytes of a change, about, of which `touched` is the share of changed rows in tables."""
    bits = 0.0
    for shape in shapes.values():
        size = math.prod(shape)
        if compression.method == "none":
            bits += 32 * size
        elif len(shape) < 2:
            bits += (16 if compression.lossy else 32) * size
        elif compression.method == "topk":
            changed = touched * size
            density = max(compression.share * changed / max(size, 1), 1e-9)
            gap = math.log2(math.e / density)
            bits += compression.share * changed * (gap + ELEMENT_BITS)
        else:
            element, scale = ROW_BITS[compression.method]
            bits += touched * shape[0] * (math.prod(shape[1:]) * element + scale + 8)
    return MESSAGE_BYTES + math.ceil(bits / 8)


def measured(records: Sequence[Mapping[str, Any]], local_epochs: int) -> dict[str, Measured]:
    """What the rounds of a run tell of the sites that trained in it.

    Parameters
    ----------
    records : sequence of mapping
        Of the rounds, by :mod:`federation.server_app`: of each site that trained "seconds" (its
        training), "answered" (from the question to the answer's last byte) and "bytes".
    local_epochs : int
        Passes that the sites made in each.

    Returns
    -------
    dict of str to Measured
        Bytes a second and seconds of a pass. The time of a small message is mostly something
        else than its transport, so the fastest transport seen counts.
    """
    speeds: dict[str, list[float]] = {}
    passes: dict[str, list[float]] = {}
    for record in records:
        for site, told in record.get("trained", {}).items():
            if {"seconds", "answered", "bytes"} <= told.keys():
                transport = max(told["answered"] - told["seconds"], 1e-3)
                speeds.setdefault(site, []).append(told["bytes"] / transport)
                passes.setdefault(site, []).append(told["seconds"] / local_epochs)
    return {site: Measured(max(speeds[site]), median(passes[site])) for site in speeds}


def expected_touched(items: int, distinct: int, draws: int) -> float:
    """Share of a table's rows that a pass changes.

    Parameters
    ----------
    items : int
        Rows of the table.
    distinct : int
        Items that the site's own events name.
    draws : int
        Negatives drawn in the pass; the draws spread over the other items about evenly.
    """
    others = max(items - distinct, 0)
    missed = (1 - 1 / items) ** draws
    return min(1.0, (distinct + others * (1 - missed)) / items)


def _reached(touched: float, epochs: int) -> float:
    """Share of rows that some of several passes change, at most: each draws others."""
    return 1 - (1 - touched) ** epochs


def _seconds(
    sites: Sequence[Site],
    ups: Sequence[int],
    down: int,
    epochs: int,
    buffer: int,
    at_once: int,
) -> float | None:
    """Until the last site has answered; with a buffer, until so many answers have come."""
    times = []
    for site, up in zip(sites, ups, strict=True):
        if site.bandwidth is None or (epochs and site.epoch_seconds is None):
            return None
        times.append((up + down) / site.bandwidth + epochs * (site.epoch_seconds or 0))
    turns = max(1.0, len(times) / at_once) if at_once else 1.0
    if buffer:
        # Each site goes on at its own pace.
        return turns * buffer / sum(1 / max(each, 1e-9) for each in times)
    return max(max(times), turns * mean(times))


def _fewer_sites(sites: Sequence[Site]) -> Iterator[list[Site]]:
    """All sites, then one less at a time: the one on the slowest link goes first."""
    left = sorted(sites, key=lambda site: (-(site.bandwidth or math.inf), site.name))
    while left:
        yield sorted(left, key=lambda site: site.name)
        if len(left) <= FEWEST_SITES:
            return
        left.pop()


def _told(tried: Sequence[Plan]) -> str:
    least = min(tried, key=lambda plan: (plan.run_seconds or 0, plan.run_bytes))
    seconds = "" if least.run_seconds is None else f", {least.run_seconds:.0f} s"
    return (
        f"the smallest, {least.compression} on {', '.join(least.sites)} with "
        f"{least.local_epochs} local epochs in {least.rounds} rounds, takes "
        f"{least.run_bytes / 1e6:.2f} MB{seconds} and {least.run_cost:.4f} USD"
    )
