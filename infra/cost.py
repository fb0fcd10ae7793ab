"""What resources cost a month, as a range: from the smallest size on spot to the largest.

Pure: prices come from a table (infra/prices.yaml), quantities from the resources' inputs. What is
billed by use, such as traffic and what buckets hold, is told as a price, not guessed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.machine_groups import AWS_TEMPLATE, MachineGroup, machine_group
from infra.resources import Declared, Recorded

BUNDLED = Path(__file__).with_name("prices.yaml")
INSTANCE = "aws:ec2/instance:Instance"
# Keys of `storage` in a table: disks of machines, and what holds objects.
VOLUMES = {"aws": "volume", "gcp": "gcp-volume", "azure": "azure-volume"}
BUCKETS = {
    "aws": "aws:s3/bucket:Bucket",
    "gcp": "gcp:storage/bucket:Bucket",
    "azure": "azure:storage/account:Account",
}
Cloud = Literal["aws", "gcp", "azure"]
Price = Annotated[float, Field(ge=0)]
Range = tuple[Price, Price]


class PricesError(Exception):
    """A table of prices that cannot be used; the sentence names file and key."""

    exit_code = 2


class Traffic(BaseModel):
    """Prices a GB, of what leaves each cloud and of NAT."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    nat: Price
    egress: dict[Cloud, Price]


class Checked(BaseModel):
    """Where prices were found again; when that was made, or found where it has no date."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    source: str
    seen: date
    prices: tuple[str, ...]


class Prices(BaseModel):
    """A dated table of prices in US dollars."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    as_of: date
    hours_per_month: Annotated[int, Field(gt=0)]
    regions: dict[str, Range]
    spot: Range
    instances: dict[str, Price]
    hourly: dict[str, Price | Range]
    monthly: dict[str, Price]
    storage: dict[str, Price]
    traffic: Traffic
    checked: tuple[Checked, ...] = ()

    @property
    def names(self) -> set[str]:
        """What has a price; egress as ``egress.CLOUD``."""
        egress = {f"egress.{cloud}" for cloud in self.traffic.egress}
        return {*self.instances, *self.hourly, *self.monthly, *self.storage, "nat"} | egress

    @property
    def from_memory(self) -> set[str]:
        """Prices that `checked` has no source of."""
        return self.names.difference(*(each.prices for each in self.checked))

    @model_validator(mode="after")
    def _require_known_names(self) -> Prices:
        unknown = sorted({name for each in self.checked for name in each.prices} - self.names)
        if unknown:
            raise ValueError(f"checked names {', '.join(unknown)}, which have no price")
        return self

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
    # A single machine may be described by its launch template only.
    templates = [r for r in resources if r.type == AWS_TEMPLATE]
    described = [str(t) for r in templates if (t := r.inputs.get("instanceType"))]
    items = [
        Item(
            resource.urn.split("::")[0].rpartition(".")[2],
            resource.urn.rpartition("::")[2],
            what,
            None if least is None else least * low,
            None if most is None else most * high,
        )
        for resource in resources
        for what, least, most in _billed(resource, resources, prices, described)
    ]
    return Cost(sorted(items, key=lambda item: -(item.high or 0)))


def prices_used(
    resources: Sequence[Declared] | Sequence[Recorded], prices: Prices, cloud: Cloud
) -> set[str]:
    """Names of the prices by which resources are billed, those by use included."""
    kinds = {resource.type for resource in resources}
    used = {*kinds, "nat", f"egress.{cloud}"}
    for group in filter(None, (machine_group(each, resources) for each in resources)):
        used |= {*group.kinds, VOLUMES[group.cloud]}
    used |= {str(r.inputs.get("instanceType")) for r in resources if r.type == INSTANCE}
    return used & prices.names


def round_traffic(
    sites: int, model_bytes: int, prices: Prices, cloud: Cloud
) -> tuple[float, float]:
    """GB that a federated round moves, and what they cost if the cloud sends the models out.

    Each site gets the model and sends its own back; only what leaves the cloud is billed.
    """
    one_way = sites * model_bytes / 1e9
    return 2 * one_way, one_way * prices.traffic.egress[cloud]


def round_sentence(sites: int, model_mib: float, prices: Prices, cloud: Cloud) -> str:
    """What :func:`round_traffic` gives, for people."""
    gigabytes, dollars = round_traffic(sites, int(model_mib * 2**20), prices, cloud)
    return (
        f"A federated round of {model_mib:g} MiB moves {gigabytes:.2f} GB; its egress costs up to "
        f"{dollars:.2f} USD."
    )


def _billed(
    resource: Declared | Recorded,
    everything: Sequence[Declared | Recorded],
    prices: Prices,
    described: Sequence[str],
) -> Iterator[tuple[str, float | None, float | None]]:
    kind, hours = resource.type, prices.hours_per_month
    if kind in prices.hourly:
        price = prices.hourly[kind]
        least, most = price if isinstance(price, tuple) else (price, price)
        shown = f"{least}" if least == most else f"{least} to {most}"
        yield f"{_short(kind)}, {shown} an hour", least * hours, most * hours
    elif kind in prices.monthly:
        yield _short(kind), prices.monthly[kind], prices.monthly[kind]
    elif group := machine_group(resource, everything):
        yield _group(group, prices)
    elif kind == INSTANCE:
        name = str(resource.inputs.get("instanceType") or next(iter(described), "a machine"))
        machine = prices.instances.get(name)
        month = None if machine is None else machine * hours
        yield f"{name}, on demand", month, month


def _group(group: MachineGroup, prices: Prices) -> tuple[str, float | None, float | None]:
    """The least: the smallest size on the cheapest spot; the most: the largest, the dearest."""
    hourly = [prices.instances.get(kind) for kind in group.kinds]
    sizes = (group.minimum, group.maximum)
    what = f"{sizes[0]} to {sizes[1]} of {', '.join(group.kinds)}"
    if not hourly or None in hourly:
        unknown = [kind for kind, price in zip(group.kinds, hourly, strict=True) if price is None]
        return f"{what}: no price of {', '.join(unknown) or 'its machines'}", None, None
    disk = _billed_size(group) * prices.storage[VOLUMES[group.cloud]]
    months = []
    for size, price, spot in zip(sizes, (min(hourly), max(hourly)), prices.spot, strict=True):
        fixed = min(size, group.base)
        machines = fixed + (size - fixed) * (group.on_demand + (1 - group.on_demand) * spot)
        months.append(machines * price * prices.hours_per_month + size * disk)
    return what, months[0], months[1]


def _billed_size(group: MachineGroup) -> float:
    """GiB of a machine's disk that are paid for: Azure's go up by powers of two."""
    if group.cloud != "azure" or not group.volume:
        return group.volume
    return float(2 ** math.ceil(math.log2(group.volume)))


def _short(kind: str) -> str:
    return kind.rpartition(":")[2]
