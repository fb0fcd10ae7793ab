"""Inputs are checked against what the installed SDKs declare."""

from __future__ import annotations

import importlib

import pytest

from infra.offline.__main__ import PACKAGES
from infra.offline.schema import input_properties, output_names, provider_properties, validate
from infra.offline.wire import UNKNOWN, Secret

TABLES = {name: importlib.import_module(f"infra.offline.{name}").TYPES for name in PACKAGES}


@pytest.mark.parametrize("package", PACKAGES)
def test_the_table_agrees_with_the_sdk(package: str) -> None:
    for token, entry in TABLES[package].items():
        inputs, outputs = input_properties(token).keys(), set(output_names(token))
        assert entry.handled is None or entry.handled <= inputs, token
        assert {*entry.secrets, *entry.derived, *entry.volatile} <= outputs, token
        assert entry.defaults.keys() <= inputs, token
        tops = {path.partition(".")[0] for path in entry.replace_on if path != "*"}
        assert tops <= inputs, token
    assert isinstance(provider_properties(package), dict)


def failures(token: str, **properties: object) -> dict[str, str]:
    found = validate(properties, input_properties(token))
    return {failure.path: failure.reason for failure in found}


def test_a_misspelt_property_is_named_with_the_right_one() -> None:
    found = failures("aws:ec2/vpc:Vpc", cidrBlok="10.0.0.0/16")
    assert found == {"cidrBlok": "there is no property 'cidrBlok' here; did you mean 'cidrBlock'?"}


def test_nested_properties_and_other_files_are_looked_into() -> None:
    container = {"image": 3, "imagePullPolcy": "Always"}
    template = {"spec": {"containers": [container]}}
    found = failures(
        "kubernetes:apps/v1:Deployment",
        spec={"replicas": "3", "selector": {"matchLabels": {"a": 1}}, "template": template},
    )
    assert found == {
        "spec.replicas": "expected a whole number, got a string",
        "spec.selector.matchLabels.a": "expected a string, got a whole number",
        "spec.template.spec.containers[0].image": "expected a string, got a whole number",
        "spec.template.spec.containers[0].imagePullPolcy": (
            "there is no property 'imagePullPolcy' here; did you mean 'imagePullPolicy'?"
        ),
        "spec.template.spec.containers[0].name": "the property 'name' is required",
    }


def test_a_required_property_is_asked_for() -> None:
    assert failures("random:index/randomId:RandomId") == {
        "byteLength": "the property 'byteLength' is required"
    }


def test_unknown_and_secret_values_pass() -> None:
    assert failures("random:index/randomId:RandomId", byteLength=UNKNOWN) == {}
    assert failures("random:index/randomId:RandomId", byteLength=Secret(4)) == {}


def test_the_value_of_a_secret_is_not_told() -> None:
    found = failures("random:index/randomId:RandomId", byteLength=Secret("hunter2"))
    assert found == {"byteLength": "expected a whole number, got a string"}


def test_one_of_several_types_will_do() -> None:
    port = {"port": 80, "targetPort": "http"}
    assert failures("kubernetes:core/v1:Service", spec={"ports": [port]}) == {}
    port = {"port": 80, "targetPort": [80]}
    assert failures("kubernetes:core/v1:Service", spec={"ports": [port]}).keys() == {
        "spec.ports[0].targetPort"
    }
