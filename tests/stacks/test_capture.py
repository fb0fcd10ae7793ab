"""Capturing programs: names, secrets, unknowns and sources come out as the engine would get them.

That whole stacks are captured as the engine plans them is checked in test_programs.py.
"""

from __future__ import annotations

import pulumi
import pulumi_kubernetes as kubernetes
import pulumi_random as random
import pytest

from infra.offline.wire import UNKNOWN, Secret
from infra.resources import Recorded
from stacks.capture import Capture


def captured(program, recorded=None) -> dict:
    """Resources by name."""
    capture = Capture("test", None, recorded)
    capture.run_program("cloud", program)
    return {resource.name: resource for resource in capture.declared}


def namespace(name: str, **options) -> kubernetes.core.v1.Namespace:
    metadata = {"name": name, "labels": {"match_labels": "kept"}}
    return kubernetes.core.v1.Namespace(name, metadata=metadata, **options)


def test_properties_get_the_engines_names_and_keys_of_maps_stay():
    made = captured(lambda: namespace("shop"))["shop"]
    assert made.type == "kubernetes:core/v1:Namespace" and made.layer == "cloud"
    assert made.urn == "urn:pulumi:test.cloud::hybrid::kubernetes:core/v1:Namespace::shop"
    assert made.inputs["apiVersion"] == "v1"
    assert made.inputs["metadata"]["labels"] == {"match_labels": "kept"}


def program_with_a_dependency():
    password = random.RandomPassword("key", length=9, keepers={"a_b": "c"})
    kubernetes.core.v1.ConfigMap(
        "holder",
        metadata={"name": namespace("shop").metadata["name"]},
        data={"key": password.result.apply(str.upper), "plain": "text"},
    )


def test_what_is_made_later_is_unknown_and_its_source_is_noted():
    made = captured(program_with_a_dependency)
    assert made["holder"].inputs["metadata"] == {"name": "shop"}
    data = made["holder"].inputs["data"]
    assert data["key"] == Secret(UNKNOWN)
    assert made["holder"].sources["data"] == {made["key"].urn}
    assert made["key"].inputs == {"length": 9, "keepers": {"a_b": "c"}}


def test_what_is_recorded_is_known_unless_it_is_sealed():
    urn = captured(program_with_a_dependency)["key"].urn

    def state(result):
        recorded = Recorded("", urn, "i-1", True, {}, {"result": result})
        made = captured(program_with_a_dependency, {urn: recorded})
        data = made["holder"].inputs["data"]
        return data["key"]

    assert state("abc") == Secret("ABC")
    assert state(Secret(UNKNOWN)) == Secret(UNKNOWN)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: pulumi.Output.secret("s"), Secret("s")),
        (lambda: pulumi.Output.unsecret(pulumi.Output.secret("s")), "s"),
        (lambda: pulumi.Output.format("{0}-{1}", "a", pulumi.Output.from_input("b")), "a-b"),
        (lambda: pulumi.Output.concat("a", pulumi.Output.secret("b")), Secret("ab")),
        (lambda: pulumi.Output.all("a", "b")[1], "b"),
        (lambda: pulumi.Output.all(x={"y": "z"}).x.y, "z"),
        (lambda: pulumi.Output.json_dumps({"a": pulumi.Output.from_input(1)}), '{"a": 1}'),
        (lambda: pulumi.Output.from_input("a").apply(pulumi.Output.secret), Secret("a")),
        (lambda: pulumi.get_stack(), "test.cloud"),
    ],
)  # fmt: skip
def test_outputs_are_there_at_once(make, expected):
    made = captured(lambda: random.RandomPassword("p", length=1, override_special=make()))
    assert made["p"].inputs["overrideSpecial"] == expected


def test_layers_read_each_others_outputs():
    capture = Capture("test", None)
    capture.run_program("cloud", lambda: pulumi.export("zones", {"a": pulumi.Output.secret("b")}))

    def reader():
        zones = pulumi.StackReference("organization/hybrid/test.cloud").get_output("zones")
        absent = pulumi.StackReference("organization/hybrid/test.cloud").get_output("absent")
        random.RandomPassword("p", length=1, keepers={"zone": zones["a"], "absent": absent})

    capture.run_program("link", reader)
    assert capture.declared[0].inputs["keepers"] == {"zone": Secret("b")}


def test_the_sdk_is_whole_again_afterwards():
    before = vars(pulumi.Output)["from_input"], pulumi.resource.register_resource, pulumi.export

    def fails():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        captured(fails)
    after = vars(pulumi.Output)["from_input"], pulumi.resource.register_resource, pulumi.export
    assert before == after


def test_a_component_names_its_parts_and_what_is_ignored():
    class Part(pulumi.ComponentResource):
        def __init__(self):
            super().__init__("hybrid:infra:Part", "whole")
            options = pulumi.ResourceOptions(parent=self, ignore_changes=["desired_size"])
            namespace("shop", opts=options)
            self.register_outputs({})

    made = captured(Part)
    assert made["whole"].custom is False
    assert "hybrid:infra:Part$kubernetes:core/v1:Namespace" in made["shop"].urn
    assert made["shop"].ignored == {"desiredSize"}
