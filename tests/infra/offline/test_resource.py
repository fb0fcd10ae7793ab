"""What counts as a change, as a replacement and as drift; names and marks."""

from __future__ import annotations

from infra.offline.resource import (
    Change,
    automatic_name,
    changes,
    creation_mark,
    is_automatic_name,
    needs_replacement,
    resource_mark,
    says_the_same,
    with_value_at,
)
from infra.offline.wire import UNKNOWN

URN = "urn:pulumi:local.cloud::hybrid::hybrid:infra:GpuPool$aws:s3/bucket:Bucket::Model_Store"


def test_changes_are_the_smallest_ones() -> None:
    old = {"a": {"b": [1, 2], "c": 3}, "gone": True}
    new = {"a": {"b": [1, 5, 6], "c": 3}, "new": False}
    assert set(changes(old, new)) == {
        Change("a.b[1]", "UPDATE"),
        Change("a.b[2]", "ADD"),
        Change("gone", "DELETE"),
        Change("new", "ADD"),
    }


def test_what_is_not_known_yet_counts_as_changed() -> None:
    assert list(changes({"vpcId": "vpc-1"}, {"vpcId": UNKNOWN})) == [Change("vpcId", "UPDATE")]


def test_a_path_replaces_for_all_below_it_only() -> None:
    assert needs_replacement(Change("spec.selector.matchLabels.a", "UPDATE"), ("spec.selector",))
    assert needs_replacement(Change("spec.ports[0].name", "UPDATE"), ("spec.ports.name",))
    assert not needs_replacement(Change("spec.selectors", "UPDATE"), ("spec.selector",))


def test_an_automatic_name_is_repeatable_and_follows_the_inputs() -> None:
    name = automatic_name(URN, {"tags": {}})
    assert name.startswith("model-store-") and is_automatic_name(URN, name)
    assert automatic_name(URN, {"tags": {}}) == name != automatic_name(URN, {"tags": {"a": "b"}})
    assert not is_automatic_name(URN, "model-store-of-mine")


def test_a_mark_tells_the_resource_and_the_creation() -> None:
    first, second = creation_mark(URN, {"a": 1}), creation_mark(URN, {"a": 2})
    assert first != second
    assert first.partition(".")[0] == second.partition(".")[0] == resource_mark(URN)


def test_defaults_order_and_layout_are_no_drift() -> None:
    assert says_the_same({"a": [1, {"b": 2}]}, {"a": [{"b": 2, "c": 3}, 1], "d": 4})
    assert says_the_same('{"a": 1, "b": [2]}', '{"b":[2],"a":1}')
    assert not says_the_same({"a": 1}, {"a": 2})
    assert not says_the_same([1], [1, 1])


def test_a_value_is_set_below_what_is_missing() -> None:
    assert with_value_at({"spec": 1}, "metadata.name", "x") == {
        "spec": 1,
        "metadata": {"name": "x"},
    }
