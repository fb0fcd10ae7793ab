from __future__ import annotations

import pytest

from federation.errors import FederationError
from federation.metrics import average_metrics, check_metrics


def test_metrics_count_users() -> None:
    combined = average_metrics(
        {
            "north": {"HR@10": 0.5, "NDCG@10": 0.3, "users": 300},
            "south": {"HR@10": 0.1, "NDCG@10": 0.1, "users": 100},
        }
    )
    assert combined == pytest.approx({"HR@10": 0.4, "NDCG@10": 0.25, "users": 400})


@pytest.mark.parametrize(
    "wrong",
    [{"NDCG@10": float("nan")}, {"HR@10": [0.5]}, {"MRR": 10**400}, {"users": -1}, {"users": 1e300}],
)
def test_what_cannot_be_averaged_is_refused(wrong: dict) -> None:
    metrics = {"HR@10": 0.5, "NDCG@10": 0.3, "users": 300}
    check_metrics("north", metrics)
    with pytest.raises(FederationError, match="Site 'north' sent no usable metrics"):
        check_metrics("north", metrics | wrong)
    del metrics["users"]
    with pytest.raises(FederationError, match="Site 'north' sent no usable metrics"):
        check_metrics("north", metrics)
