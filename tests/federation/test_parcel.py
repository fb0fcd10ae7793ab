from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from federation.errors import FederationError
from federation.parcel import MOST_BYTES, PARCEL, packed, unpacked


def content_of(size: int) -> RecordDict:
    arrays = {name: Array(np.arange(size, dtype=np.uint8)) for name in ("1", "2")}
    return RecordDict(
        {
            "model": ArrayRecord(arrays),
            "task": ConfigRecord({"run": "r", "number": 3, "train": True, "rate": 0.1}),
            "train": MetricRecord({"examples": 7, "loss": float("inf")}),
            "behind": ConfigRecord(),
        }
    )


def test_a_parcel_gives_back_what_was_packed() -> None:
    content = content_of(5)
    parcel = packed(content)
    assert list(parcel) == [PARCEL] and len(get_all_nested_objects(parcel)) == 2
    found = unpacked(parcel)
    for records in ("config_records", "metric_records"):
        assert dict(getattr(found, records)) == dict(getattr(content, records))
    assert {n: a.numpy().tolist() for n, a in found["model"].items()} == {
        "1": [0, 1, 2, 3, 4], "2": [0, 1, 2, 3, 4],
    }  # fmt: skip


def test_large_parts_and_other_messages_stay_as_they_are() -> None:
    large = RecordDict({"model": ArrayRecord({"whole": Array(np.zeros(MOST_BYTES + 1, np.uint8))})})
    assert packed(large) is large and unpacked(large) is large


@pytest.mark.parametrize(
    "parcel",
    [
        {},
        {"texts": "{"},
        {"texts": "[]"},
        {"texts": '{"config": {"a": 1}, "metric": {}, "arrays": []}'},
        {"texts": '{"config": {}, "metric": {"a": {"b": "text"}}, "arrays": []}'},
        {"texts": '{"config": {}, "metric": {}, "arrays": [["a", "b"]]}'},
        {"texts": '{"config": {}, "metric": {}, "arrays": [["a", "b"]]}', "0": "text"},
        {"texts": '{"config": {"a": {}}, "metric": {}, "arrays": [["a", "b"]]}', "0": b"x"},
    ],
)
def test_a_parcel_that_cannot_be_read_is_refused(parcel: dict) -> None:
    with pytest.raises(FederationError, match="parcel cannot be read"):
        unpacked(RecordDict({PARCEL: ConfigRecord(parcel)}))
