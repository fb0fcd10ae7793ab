"""What the server and the sites say to each other: names and forms of the parts of a message.

==============  ==========================  ==================================================
part            from                        content
==============  ==========================  ==================================================
``model``       server                      the model's weights, see :func:`pack`
``task``        server                      a :class:`Task`
``validation``  site                        metrics of the received model on held-out users
``test``        site, after the last round  the same on the test items
``delta``       site if it trained          trained minus received weights, packed likewise
``train``       site if it trained          "examples" (interactions), "loss" (mean), "seconds"
==============  ==========================  ==================================================
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from safetensors import SafetensorError
from safetensors.numpy import load, save

from federation.errors import FederationError
from federation.updates import Weights


@dataclass(frozen=True)
class Task:
    """What a site shall do with the model in a message.

    Attributes
    ----------
    number : int
        The round.
    train : bool
        Whether this site trains; it evaluates in any case.
    recipe : str
        The model's recipe as JSON.
    vocabulary : str
        :func:`vocabulary_digest` of the model's items.
    local_epochs, proximal_mu, seed
        See :class:`federation.settings.RunSettings`.
    """

    number: int
    train: bool
    recipe: str
    vocabulary: str
    local_epochs: int
    proximal_mu: float
    seed: int

    def to_record(self) -> ConfigRecord:
        """Write the task as a part of a message."""
        return ConfigRecord(asdict(self))

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Task:
        """Read the task of a message."""
        return cls(**record)


def vocabulary_digest(items: list[str]) -> str:
    """Digest of item ids in their order: equal where an item index means the same item."""
    return hashlib.sha256("\n".join(items).encode()).hexdigest()


def pack(weights: Weights) -> ArrayRecord:
    """Write weights as a part of a message: one array that holds a safetensors file.

    Flower sends every array of a record as an object of its own, and an object takes the SuperLink
    several requests and some 40 ms; a transformer has dozens of arrays.
    """
    return ArrayRecord({"safetensors": Array(np.frombuffer(save(weights), np.uint8))})


def unpack(record: ArrayRecord) -> Weights:
    """Read the weights of a message.

    Raises
    ------
    FederationError
        If the part does not hold a safetensors file.
    """
    try:
        return load(record["safetensors"].numpy().tobytes())
    except (KeyError, SafetensorError) as error:
        raise FederationError(f"The message holds no model ({error}).") from error


def size_of(content: RecordDict) -> int:
    """Bytes of a message's parts, without the few that the transport adds."""
    return sum(record.count_bytes() for record in content.values())
