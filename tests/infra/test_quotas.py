"""Quotas: nothing that is asked for is lost in the sum, and nothing is added."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra import pods
from infra.quotas import quota, total


@given(st.lists(st.integers(0, 5000), min_size=1), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_a_sum_of_millis_is_exact(millis, times):
    told = total([f"{each}m" for each in millis], times)
    value = int(told[:-1]) if told.endswith("m") else 1000 * _bytes(told)
    assert value == times * sum(millis)


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(["Ki", "Mi", "Gi"])), min_size=1))
@settings(max_examples=40, deadline=None)
def test_a_sum_of_sizes_is_exact_in_its_largest_unit(sizes):
    quantities = [f"{number}{unit}" for number, unit in sizes]
    told = total(quantities)
    assert _bytes(told) == sum(map(_bytes, quantities))
    assert not told.endswith("i") or _bytes(told) // _bytes(f"1{told[-2:]}") % 1024


def _bytes(quantity: str) -> int:
    units = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    return int(quantity.rstrip("KMGTi")) * units.get(quantity[-2:], 1)


@pytest.mark.parametrize("wrong", ["", "2GB", "-1", "1e3", "Gi"])
def test_what_is_no_quantity_is_named(wrong):
    with pytest.raises(ValueError, match=f"'{wrong}' is no quantity"):
        total([wrong])


def test_a_quota_holds_all_pods_their_devices_and_volumes():
    containers = [
        {"resources": pods.resources("250m", "1Gi", **{"nvidia.com/gpu": "2"})},
        {"resources": pods.resources("1", "512Mi")},
    ]
    assert quota(4, containers, ["5Gi", "5Gi"]) == {
        "pods": "4",
        "persistentvolumeclaims": "2",
        "requests.storage": "10Gi",
        "requests.cpu": "5",
        "requests.memory": "6Gi",
        "limits.memory": "6Gi",
        "requests.nvidia.com/gpu": "8",
    }
