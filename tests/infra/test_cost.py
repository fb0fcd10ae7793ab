"""Monthly costs: the range's ends are the cheapest and the dearest that settings allow."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.cost import (
    BUNDLED,
    PricesError,
    monthly_cost,
    prices_used,
    read_prices,
    round_traffic,
)
from infra.machine_groups import (
    AWS_GROUP,
    AWS_TEMPLATE,
    AZURE_GROUP,
    GCP_BOUNDS,
    GCP_TEMPLATE,
)
from infra.resources import Declared
from stacks.settings import SHIPPED, known_environments, load_settings

PRICES = read_prices()
NAT = "aws:ec2/natGateway:NatGateway"


def resource(kind: str, inputs: dict, name: str = "it") -> Declared:
    urn = f"urn:pulumi:shop.cloud::hybrid::x::{name}"
    return Declared("cloud", kind, name, urn, True, inputs)


def group(low: int, high: int, base=0, on_demand=20, kinds=("g5.xlarge",)) -> Declared:
    spread = {
        "onDemandBaseCapacity": base,
        "onDemandPercentageAboveBaseCapacity": on_demand,
    }
    template = {"overrides": [{"instanceType": kind} for kind in kinds]}
    policy = {"instancesDistribution": spread, "launchTemplate": template}
    return resource(AWS_GROUP, {"minSize": low, "maxSize": high, "mixedInstancesPolicy": policy})


def test_a_nat_gateway_costs_its_hours_times_the_regions_factor():
    (item,) = monthly_cost([resource(NAT, {})], PRICES, "eu-central-1").items
    assert (item.layer, item.name) == ("cloud", "it")
    assert item.low == pytest.approx(0.045 * 730)
    assert item.high == pytest.approx(0.045 * 730 * 1.26)


def test_a_group_costs_from_its_smallest_on_spot_to_its_largest():
    disk = resource(AWS_TEMPLATE, {"blockDeviceMappings": [{"ebs": {"volumeSize": 100}}]})
    kinds = ("g5.xlarge", "g4dn.xlarge")
    cost = monthly_cost([group(1, 3, 1, 50, kinds), disk], PRICES, "us-east-1")
    assert cost.low == pytest.approx(1 * 0.526 * 730 + 100 * 0.08)
    assert cost.high == pytest.approx((1 + 2 * (0.5 + 0.5 * 0.75)) * 1.006 * 730 + 300 * 0.08)


def test_a_group_on_google_cloud_has_its_bounds_and_its_machine_in_two_resources():
    template = {
        "machineType": "g2-standard-8",
        "disks": [{"diskSizeGb": 200}],
        "scheduling": {"provisioningModel": "SPOT"},
    }
    bounds = {"autoscalingPolicy": {"minReplicas": 1, "maxReplicas": 6}}
    found = [
        resource(GCP_BOUNDS, bounds, "pool-spot-a"),
        resource(GCP_TEMPLATE, template, "pool-spot"),
    ]
    cost = monthly_cost(found, PRICES, "us-central1")
    assert cost.low == pytest.approx(0.1 * 0.8536 * 730 + 200 * 0.1)
    assert cost.high == pytest.approx(6 * (0.75 * 0.8536 * 730 + 200 * 0.1))
    assert "no price" in monthly_cost(found[:1], PRICES, "us-central1").items[0].what


def test_a_scale_set_on_azure_pays_for_disks_of_the_next_size():
    inputs = {
        "skuName": "Standard_NC4as_T4_v3",
        "tags": {"min": "0", "max": "8"},
        "priority": "Spot",
        "priorityMix": {"baseRegularCount": 1, "regularPercentageAboveBase": 25},
        "osDisk": {"diskSizeGb": 200},
    }
    cost = monthly_cost([resource(AZURE_GROUP, inputs)], PRICES, "eastus")
    machines = 1 + 7 * (0.25 + 0.75 * 0.75)
    assert cost.low == 0
    assert cost.high == pytest.approx(machines * 0.526 * 730 + 8 * 256 * 0.154)


def test_prices_without_a_source_are_told_where_they_are_used():
    stated = [resource(NAT, {}), group(0, 1, kinds=("g5.xlarge", "g6.xlarge"))]
    used = prices_used(stated, PRICES, "aws")
    assert used == {NAT, "g5.xlarge", "g6.xlarge", "volume", "nat", "egress.aws"}
    assert not used & PRICES.from_memory
    assert used <= PRICES.model_copy(update={"checked": ()}).from_memory


@pytest.mark.parametrize("environment", known_environments([SHIPPED]))
def test_the_machines_and_the_egress_of_each_shipped_environment_have_a_price(environment):
    pool = load_settings(environment, [SHIPPED]).gpu_pool
    assert set(pool.instance_types) <= PRICES.instances.keys()
    assert PRICES.traffic.egress[pool.cloud] > 0


def test_what_has_no_price_is_named_and_not_counted():
    cost = monthly_cost([group(0, 1, kinds=("g9.xlarge",))], PRICES, "us-east-1")
    assert cost.high == 0 and "no price of g9.xlarge" in cost.unpriced[0].what


@settings(max_examples=50)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 60), st.integers(0, 100))
def test_the_lower_end_is_never_above_the_upper(one, other, base, on_demand):
    sized = group(min(one, other), max(one, other), base, on_demand)
    cost = monthly_cost([sized], PRICES, "eu-central-1")
    assert 0 <= cost.low <= cost.high


def test_a_round_moves_the_model_to_each_site_and_back():
    gigabytes, dollars = round_traffic(3, 500_000_000, PRICES, "aws")
    assert gigabytes == pytest.approx(3.0) and dollars == pytest.approx(1.5 * 0.09)


@pytest.mark.parametrize(
    ("text", "told"),
    [("as_of: 2026-01-01", "hours_per_month: Field required"), ("[", "cannot be read"),
     ("spot: [1, x]", "Field required"),
     (BUNDLED.read_text().replace("[g2-standard-8]", "[g9.xlarge]"), "g9.xlarge, which have no")],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_named(tmp_path, text, told):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(PricesError, match=told) as raised:
        read_prices(file)
    assert str(file) in str(raised.value)
