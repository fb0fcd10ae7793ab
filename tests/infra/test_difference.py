"""Comparing declarations with a state: the operations are those that the engine would choose."""

from __future__ import annotations

from infra.difference import compare
from infra.offline.wire import UNKNOWN, Secret
from infra.resources import Declared, Recorded

VPC, SUBNET = "aws:ec2/vpc:Vpc", "aws:ec2/subnet:Subnet"


def declared(kind, name, inputs, sources=None, ignored=(), custom=True) -> Declared:
    sources = {key: frozenset([urn]) for key, urn in (sources or {}).items()}
    return Declared("cloud", kind, name, name, custom, inputs, sources, frozenset(ignored))


def recorded(kind, name, inputs) -> dict[str, Recorded]:
    return {name: Recorded(kind, name, f"{name}-id", True, inputs, inputs)}


def told(resources, state) -> list[tuple]:
    return [(s.operation, s.resource.urn, s.properties) for s in compare(resources, state)]


def test_the_four_operations():
    state = recorded(VPC, "vpc", {"cidrBlock": "10.0.0.0/16", "tags": {"a": "b"}})
    state |= recorded(SUBNET, "old", {}) | recorded(SUBNET, "older", {})
    vpc = declared(VPC, "vpc", {"cidrBlock": "10.0.0.0/16", "tags": {"a": "c"}})
    assert told([vpc], state) == [
        ("update", "vpc", ("tags.a",)),
        ("delete", "older", ()),
        ("delete", "old", ()),
    ]
    moved = declared(VPC, "vpc", {"cidrBlock": "10.1.0.0/16", "tags": {"a": "b"}})
    (step, *_) = compare([moved], state)
    assert (step.operation, step.replacing) == ("replace", ("cidrBlock",))
    assert told([declared(VPC, "new", {})], {}) == [("create", "new", ())]


def test_what_hangs_on_a_replaced_resource_changes_with_it():
    state = recorded(VPC, "vpc", {"cidrBlock": "10.0.0.0/16"})
    state |= recorded(SUBNET, "subnet", {"vpcId": "vpc-id", "cidrBlock": "10.0.0.0/24"})
    subnet = declared(
        SUBNET, "subnet", {"vpcId": "vpc-id", "cidrBlock": "10.0.0.0/24"}, {"vpcId": "vpc"}
    )
    same = declared(VPC, "vpc", {"cidrBlock": "10.0.0.0/16"})
    assert [step.operation for step in compare([same, subnet], state)] == ["same", "same"]
    other = declared(VPC, "vpc", {"cidrBlock": "10.1.0.0/16"})
    assert told([other, subnet], state)[1] == ("replace", "subnet", ("vpcId",))


def test_an_unknown_value_is_a_change_and_a_secret_is_not():
    state = recorded(VPC, "vpc", {"cidrBlock": Secret(UNKNOWN), "tags": {"a": "b"}})
    inputs = {"cidrBlock": Secret("10.0.0.0/16"), "tags": {"a": UNKNOWN}}
    assert told([declared(VPC, "vpc", inputs)], state) == [("update", "vpc", ("tags.a",))]


def test_what_is_made_of_the_secret_of_a_resource_that_stays_is_no_change():
    state = recorded(VPC, "vpc", {"cidrBlock": "10.0.0.0/16"})
    state |= recorded(SUBNET, "subnet", {"tags": {"of": "fingerprint", "name": "a"}})
    made = {"tags": {"of": UNKNOWN, "name": "a"}}
    subnet = declared(SUBNET, "subnet", made, {"tags": "vpc"})
    same = declared(VPC, "vpc", {"cidrBlock": "10.0.0.0/16"})
    assert told([same, subnet], state) == [("same", "vpc", ()), ("same", "subnet", ())]
    updated = declared(VPC, "vpc", {"cidrBlock": "10.0.0.0/16", "enableDnsSupport": False})
    assert told([updated, subnet], state)[1] == ("update", "subnet", ("tags.of",))
    renamed = declared(SUBNET, "subnet", {"tags": made["tags"] | {"name": "b"}}, {"tags": "vpc"})
    assert told([same, renamed], state)[1] == ("update", "subnet", ("tags.name",))


def test_what_providers_add_by_themselves_is_no_change():
    state = recorded(
        "aws:iam/role:Role", "r", {"name": "r-1234567", "path": "/", "__defaults": ["path"]}
    )
    assert told([declared("aws:iam/role:Role", "r", {})], state) == [("same", "r", ())]
    kind = "pulumi:providers:aws"
    state = recorded(kind, "p", {"region": "eu-central-1", "version": "7", "__internal": {}})
    assert told([declared(kind, "p", {"region": "eu-central-1"})], state) == [("same", "p", ())]


def test_ignored_properties_and_components_do_not_change():
    state = recorded("aws:autoscaling/group:Group", "g", {"desiredCapacity": 2, "maxSize": 3})
    state["c"] = Recorded("hybrid:infra:X", "c", "", False, {}, {})
    group = declared(
        "aws:autoscaling/group:Group", "g", {"maxSize": 3}, ignored=["desiredCapacity"]
    )
    component = declared("hybrid:infra:X", "c", {"a": "b"}, custom=False)
    assert [s.operation for s in compare([group, component], state)] == ["same", "same"]
