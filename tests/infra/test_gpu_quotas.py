"""What a full GPU pool needs of AWS's quotas."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from infra.gpu_quotas import needed

SIZES = {"g5.xlarge": 4, "g5.2xlarge": 8, "p4d.24xlarge": 96, "p5.48xlarge": 192, "m5.large": 2}


def codes(**pool) -> dict[str, int]:
    kinds = pool.pop("kinds")
    found = needed({kind: SIZES[kind] for kind in kinds}, **pool)
    return {quota.code: vcpus for quota, vcpus in found.items()}


def test_spot_and_on_demand_machines_count_apart_and_the_largest_type_counts():
    assert codes(
        kinds=["g5.2xlarge", "g5.xlarge"], maximum=8, on_demand_base=1, spot_share=0.8
    ) == {"L-DB2E81BA": 24, "L-3819A6DF": 40}


def test_families_have_quotas_of_their_own():
    pool = {"maximum": 2, "on_demand_base": 0, "spot_share": 1.0}
    assert codes(kinds=["p4d.24xlarge"], **pool) == {"L-7212CCBC": 192}
    assert codes(kinds=["p5.48xlarge"], **pool) == {"L-C4BD4855": 384}
    assert codes(kinds=["m5.large"], **pool) == {}


@hypothesis_settings(max_examples=50)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 100))
def test_every_machine_counts_once(maximum, base, percent):
    found = codes(
        kinds=["g5.xlarge"], maximum=maximum, on_demand_base=base, spot_share=percent / 100
    )
    assert sum(found.values()) == 4 * maximum
