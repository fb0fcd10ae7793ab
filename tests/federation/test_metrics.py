from __future__ import annotations

import pytest

from federation.metrics import average_metrics


def test_metrics_count_users() -> None:
    combined = average_metrics(
        {
            "north": {"HR@10": 0.5, "NDCG@10": 0.3, "users": 300},
            "south": {"HR@10": 0.1, "NDCG@10": 0.1, "users": 100},
        }
    )
    assert combined == pytest.approx({"HR@10": 0.4, "NDCG@10": 0.25, "users": 400})
