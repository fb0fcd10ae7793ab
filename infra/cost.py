"""What resources cost a month, as a range: from the smallest size on spot to the largest.

Pure: prices come from a table (infra/prices.yaml), quantities from the resources' inputs. What is
billed by use, such as traffic and what buckets hold, is told as a price, not guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from infra.policy.rule import at, listed
from infra.resources import Declared, Recorded

BUNDLED = Path(__file__).with_name("prices.yaml")
GROUP = "aws:autoscaling/group:Group"
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"
INSTANCE = "aws:ec2/instance:Instance"
Price = Annotated[float, Field(ge=0)]


class PricesError(Exception):
    """A table of prices that cannot be used; the sentence names file and key."""

    exit_code = 2


class Traffic(BaseModel):
    """Prices a GB."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    nat: Price
    egress: Price


class Prices(BaseModel):
    """A dated table of prices in US dollars."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    as_of: date
    hours_per_month: Annotated[int, Field(gt=0)]
    regions: dict[str, tuple[Price, Price]]
    spot: tuple[Price, Price]
    instances: dict[str, Price]
    hourly: dict[str, Price]
    monthly: dict[str, Price]
    storage: dict[str, Price]
    traffic: Traffic

    def factors(self, region: str) -> tuple[float, float]:
        """What the region charges as a multiple of the table, at least and at most."""
        return self.regions.get(region) or self.regions.get("other", (1.0, 1.0))


@dataclass(frozen=True)
class Item:
    """What one resource costs a month, in US dollars; None where the table has no price for it."""

    layer: str
    name: str
    what: str
    low: float | None
    high: float | None

    @property
    def month(self) -> str:
        """The range for people."""
        priced = self.low is not None and self.high is not None
        return f"{self.low:.2f} to {self.high:.2f}" if priced else "no price"


@dataclass(frozen=True)
class Cost:
    """All items of an environment, the most expensive first."""

    items: list[Item]

    @property
    def low(self) -> float:
        """The least that a month costs."""
        return sum(item.low or 0 for item in self.items)

    @property
    def high(self) -> float:
        """The most."""
        return sum(item.high or 0 for item in self.items)

    @property
    def unpriced(self) -> list[Item]:
        """Items that are in neither sum."""
        return [item for item in self.items if item.high is None]


def read_prices(file: Path | None = None) -> Prices:
    """Read a table; the bundled one where no file is given.

    Raises
    ------
    PricesError
        There is no such file, or it is not a table of prices.
    """
    file = file or BUNDLED
    try:
        return Prices.model_validate(yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PricesError(f"The prices {file} cannot be read: {error}.") from None
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise PricesError(
            f"The prices {file}: {key or 'the file'}: {problem['msg']}; infra/prices.yaml shows "
            "the form."
        ) from None


def monthly_cost(
    resources: Sequence[Declared] | Sequence[Recorded], prices: Prices, region: str
) -> Cost:
    """What the resources cost a month in a region."""
    low, high = prices.factors(region)
    volume = max((size for r in resources if r.type == TEMPLATE for size in _volumes(r)), default=0)
    # A single machine may be described by its launch template only.
    described = [t for r in resources if r.type == TEMPLATE if (t := r.inputs.get("instanceType"))]
    items = [
        Item(
            resource.urn.split("::")[0].rpartition(".")[2],
            resource.urn.rpartition("::")[2],
            what,
            None if least is None else least * low,
            None if most is None else most * high,
        )
        for resource in resources
        for what, least, most in _billed(resource, prices, volume, described)
    ]
    return Cost(sorted(items, key=lambda item: -(item.high or 0)))


def round_traffic(sites: int, model_bytes: int, prices: Prices) -> tuple[float, float]:
    """GB that a federated round moves, and what they cost if the cloud sends the models out.

    Each site gets the model and sends its own back; only what leaves the cloud is billed.
    """
    one_way = sites * model_bytes / 1e9
    return 2 * one_way, one_way * prices.traffic.egress


def round_sentence(sites: int, model_mib: float, prices: Prices) -> str:
    """What :func:`round_traffic` gives, for people."""
    gigabytes, dollars = round_traffic(sites, int(model_mib * 2**20), prices)
    return (
        f"A federated round of {model_mib:g} MiB moves {gigabytes:.2f} GB; its egress costs up to "
        f"{dollars:.2f} USD."
    )


def _billed(
    resource: Declared | Recorded, prices: Prices, volume: float, described: Sequence[str]
) -> Iterator[tuple[str, float | None, float | None]]:
    kind, hours = resource.type, prices.hours_per_month
    if kind in prices.hourly:
        price = prices.hourly[kind] * hours
        yield f"{_short(kind)}, {prices.hourly[kind]} an hour", price, price
    elif kind in prices.monthly:
        yield _short(kind), prices.monthly[kind], prices.monthly[kind]
    elif kind == GROUP:
        yield _group(resource.inputs, prices, volume)
    elif kind == INSTANCE:
        name = str(resource.inputs.get("instanceType") or next(iter(described), "a machine"))
        price = prices.instances.get(name)
        month = None if price is None else price * hours
        yield f"{name}, on demand", month, month


def _group(
    inputs: Mapping[str, Any], prices: Prices, volume: float
) -> tuple[str, float | None, float | None]:
    """The least: the smallest size on the cheapest spot; the most: the largest, the dearest."""
    policy = inputs.get("mixedInstancesPolicy")
    overrides = listed(at(policy, "launchTemplate.overrides"))
    kinds = [str(at(override, "instanceType")) for override in overrides]
    hourly = [prices.instances.get(kind) for kind in kinds]
    sizes = [int(inputs.get(key) or 0) for key in ("minSize", "maxSize")]
    what = f"{sizes[0]} to {sizes[1]} of {', '.join(kinds)}"
    if not hourly or None in hourly:
        unknown = [kind for kind, price in zip(kinds, hourly, strict=True) if price is None]
        return f"{what}: no price of {', '.join(unknown) or 'its machines'}", None, None
    shares = "instancesDistribution.onDemandPercentageAboveBaseCapacity"
    base = int(at(policy, "instancesDistribution.onDemandBaseCapacity") or 0)
    on_demand = float(at(policy, shares) if at(policy, shares) is not None else 100) / 100
    months = []
    for size, price, spot in zip(sizes, (min(hourly), max(hourly)), prices.spot, strict=True):
        fixed = min(size, base)
        machines = fixed + (size - fixed) * (on_demand + (1 - on_demand) * spot)
        disks = size * volume * prices.storage["volume"]
        months.append(machines * price * prices.hours_per_month + disks)
    return what, months[0], months[1]


def _volumes(template: Declared | Recorded) -> Iterator[float]:
    for mapping in listed(template.inputs.get("blockDeviceMappings")):
        size = at(mapping, "ebs.volumeSize")
        if isinstance(size, (int, float)):
            yield float(size)


def _short(kind: str) -> str:
    return kind.rpartition(":")[2]
