"""A message's parts as one record, since every object of a message costs requests and time.

Flower sends each record, each array and each piece of an array as an object of its own, and an
object takes the SuperLink several requests and tens of milliseconds. The parts of a message of
ours are small once they are compressed. Larger ones stay as they are: Flower cuts them up.
"""

from __future__ import annotations

import json

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from federation.errors import FederationError

PARCEL = "parcel"
# Flower cuts its own arrays into pieces of 5 MiB. Who changes this looks at the limit of the
# proxy before the SuperLink: infra/fleet_proxy.py.
MOST_BYTES = 1 << 24
KINDS = {"config": ConfigRecord, "metric": MetricRecord}


def packed(content: RecordDict) -> RecordDict:
    """The parts of a message as one record, if they are small."""
    arrays = {
        (part, name): array.numpy().tobytes()
        for part, record in content.array_records.items()
        for name, array in record.items()
    }
    if sum(map(len, arrays.values())) > MOST_BYTES:
        return content
    texts = {
        "config": {part: dict(record) for part, record in content.config_records.items()},
        "metric": {part: dict(record) for part, record in content.metric_records.items()},
        # Which part and array each of the following is.
        "arrays": list(arrays),
    }
    blobs = {str(place): blob for place, blob in enumerate(arrays.values())}
    return RecordDict({PARCEL: ConfigRecord({"texts": json.dumps(texts), **blobs})})


def unpacked(content: RecordDict) -> RecordDict:
    """The parts of a message that may be a parcel.

    Raises
    ------
    FederationError
        If it is a parcel that cannot be read.
    """
    if PARCEL not in content:
        return content
    parcel = content[PARCEL]
    try:
        texts = json.loads(parcel["texts"])
        parts: dict[str, ArrayRecord | ConfigRecord | MetricRecord] = {
            part: kind(values) for name, kind in KINDS.items() for part, values in texts[name].items()
        }
        for place, (part, name) in enumerate(texts["arrays"]):
            array = Array(np.frombuffer(parcel[str(place)], np.uint8))
            parts.setdefault(part, ArrayRecord())[name] = array
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FederationError(f"The message's parcel cannot be read ({error}).") from error
    return RecordDict(parts)
