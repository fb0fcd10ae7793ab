"""What the server and the sites say to each other: names and forms of the parts of a message.

==============  ==========================  ==================================================
part            from                        content
==============  ==========================  ==================================================
``model``       server                      the model, see :class:`federation.downlink.Outgoing`
``control``     server with SCAFFOLD        its control variate, whole
``task``        server                      a :class:`Task`
``reply``       site                        site, run and round that the reply is of
``validation``  site                        metrics of the received model on held-out users
``test``        site, after the last round  the same on the test items
``train``       site if it trained          "examples" (interactions), "loss" (mean), "seconds"
``delta``       site if it trained          the change, by :func:`federation.compression.encode`
``extra``       the same with SCAFFOLD      how the site's control variate changed, likewise
``masked``      site, of a secure sum       the change by :func:`federation.secure.site.masked_change`
``encrypted``   site, of an encrypted sum   the change as ciphertexts, likewise
``secure``      both, of a secure sum       a question of :mod:`federation.secure`, and its answer
``with``        server, with such a one     a letter, or an encrypted sum
``behind``      site, alone                 the site does not hold what the model goes on from
==============  ==========================  ==================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from federation.errors import FederationError
from federation.updates import Weights


@dataclass(frozen=True)
class Task:
    """What a site shall do with the model in a message.

    Attributes
    ----------
    run : str
        Identity of the run, the same from its first call to its last.
    number : int
        The round.
    version : int
        Round that the model in the message comes from.
    train : bool
        Whether this site trains; it evaluates in any case.
    recipe : str
        The model's recipe as JSON.
    vocabulary : str
        :func:`vocabulary_digest` of the model's items.
    local_epochs, proximal_mu, keep_moments, by_row, personal, seed, compression, share
        See :class:`federation.settings.RunSettings`.
    fewest_steps : int
        Of a pass: see :func:`recsys.finetune.fewest_steps`.
    privacy : str
        :class:`federation.privacy.rounds.Terms` as text, or "none" (Flower counts no empty text).
    rate : float
        Share of the recipe's learning rate to train with.
    secure : str
        :class:`federation.secure.messages.Plan` as text, the plan of an encrypted sum, or "none".
    """

    run: str
    number: int
    version: int
    train: bool
    recipe: str
    vocabulary: str
    local_epochs: int
    proximal_mu: float
    seed: int
    fewest_steps: int
    compression: str = "none"
    share: float = 0.1
    rate: float = 1.0
    privacy: str = "none"
    personal: str = "none"
    secure: str = "none"
    keep_moments: bool = False
    by_row: bool = False

    def to_record(self) -> ConfigRecord:
        """Write the task as a part of a message."""
        return ConfigRecord(asdict(self))

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Task:
        """Read the task of a message."""
        return cls(**record)

    @property
    def personal_patterns(self) -> list[str]:
        """Patterns of the layers that stay at the site."""
        return [] if self.personal == "none" else self.personal.split(",")

    def digest(self, *parts: Weights) -> str:
        """Digest of the task and its weights: equal if the message is a repeated one.

        They may come whole the one time and as changes the other.
        """
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode())
        for weights in parts:
            for name in sorted(weights):
                array = np.ascontiguousarray(weights[name])
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Reply:
    """What a site answers.

    Attributes
    ----------
    site, run, number
        Who answers, in which run and round.
    figures : dict of str to dict
        "validation", "test" and "train", see above.
    blobs : dict of str to bytes
        Encoded arrays: "delta" if the site trained.
    """

    site: str
    run: str
    number: int
    figures: dict[str, dict[str, float]]
    blobs: dict[str, bytes]

    def to_content(self) -> RecordDict:
        """Write the reply as the content of a message."""
        about = ConfigRecord({"site": self.site, "run": self.run, "number": self.number})
        figures = {part: MetricRecord(values) for part, values in self.figures.items()}
        blobs = {part: _blob(content) for part, content in self.blobs.items()}
        return RecordDict({"reply": about, **figures, **blobs})

    @classmethod
    def from_content(cls, content: RecordDict, *, site: str, task: Task, limit: int) -> Reply:
        """Read a reply, of which nothing is believed.

        Parameters
        ----------
        content : RecordDict
            What came.
        site, task
            Whom it came from, and the task that it should answer.
        limit : int
            Most bytes that it may have; a larger one is not looked into.

        Raises
        ------
        FederationError
            If it is too large, of another site, run or round, or no reply at all.
        """
        if (size := size_of(content)) > limit:
            raise FederationError(
                f"Site {site!r} sent {size:,} bytes, more than the {limit:,} that a reply may have."
            )
        about = dict(content.get("reply") or {})
        expected = {"site": site, "run": task.run, "number": task.number}
        if about != expected:
            raise FederationError(
                f"Site {site!r} sent the reply of {_named(about)} in place of {_named(expected)}."
            )
        figures = {part: dict(values) for part, values in content.metric_records.items()}
        blobs = {part: _bytes(record) for part, record in content.array_records.items()}
        return cls(**expected, figures=figures, blobs=blobs)


def vocabulary_digest(items: list[str]) -> str:
    """Digest of item ids in their order: equal where an item index means the same item."""
    return hashlib.sha256("\n".join(items).encode()).hexdigest()


def write_model(parts: Mapping[str, bytes]) -> ArrayRecord:
    """Write a model's parts as a part of a message, an array each.

    Flower sends every array of a record as an object of its own, and an object takes the SuperLink
    several requests and some 40 ms; a transformer has dozens of arrays, but its parts are few.
    """
    return ArrayRecord(
        {name: Array(np.frombuffer(content, np.uint8)) for name, content in parts.items()}
    )


def read_model(record: ArrayRecord) -> dict[str, bytes]:
    """Read the parts of a message's model.

    Raises
    ------
    FederationError
        If they are not arrays of bytes.
    """
    return {name: _array_bytes(record, name) for name in record}


def size_of(content: RecordDict) -> int:
    """Bytes of a message's parts, without the few that the transport adds."""
    # Flower's own count_bytes() raises an error where a text is empty.
    arrays = sum(
        len(array.data) for record in content.array_records.values() for array in record.values()
    )
    others = [*content.metric_records.values(), *content.config_records.values()]
    return arrays + sum(len(name) + len(str(v)) for record in others for name, v in record.items())


def _blob(content: bytes) -> ArrayRecord:
    return write_model({"bytes": content})


def _bytes(record: ArrayRecord) -> bytes:
    return _array_bytes(record, "bytes")


def _array_bytes(record: ArrayRecord, name: str) -> bytes:
    try:
        return record[name].numpy().tobytes()
    except (KeyError, ValueError, TypeError) as error:
        raise FederationError(f"A part of the message is none that we know ({error}).") from error


def _named(about: dict[str, object]) -> str:
    if about.keys() != {"site", "run", "number"}:
        return "nothing"
    return f"site {about['site']!r}, run {about['run']!r}, round {about['number']!r}"
