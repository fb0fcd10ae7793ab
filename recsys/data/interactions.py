"""Who interacted with what, in which order: one compact table and the files it is read from.

`load_interactions` reads a folder written by `write_interactions` (``sequences.parquet``,
``items.parquet``) or events in one of the formats of `recsys.data.events`. A catalogue beside them
(``items.csv``, ``products.csv``, .tsv, .parquet, …; see `recsys.data.catalogue`) gives the item
texts, and its items that nobody has turned to yet belong to the vocabulary too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from recsys.attributes import attributes_of
from recsys.data.catalogue import STEMS, load_catalogue
from recsys.data.events import events_file, read_events
from recsys.data.filters import first_engagements, without_duplicates
from recsys.data.report import Report
from recsys.data.source import local_copy
from recsys.data.tables import SUFFIXES
from recsys.errors import RecsysError
from recsys.files import write_atomically


# Of a user's events in a written folder.
LIST = pl.List(pl.Int32)


@dataclass(frozen=True)
class Interactions:
    """Every user's events, oldest first, as one flat array.

    Attributes
    ----------
    users
        Ids, in the order of `offsets`.
    items
        Ids of the vocabulary: item index i is ``items[i]``.
    offsets
        int64[users + 1]; user u's events are ``sequence[offsets[u]:offsets[u + 1]]``.
    sequence
        int32[events] item indices.
    item_text
        A text an item, or None when the source has none.
    times
        float64[events], seconds since 1970, never falling within a user; None when the source has
        none.
    attributes
        A row an item (see `recsys.attributes`), or None when the source has none.
    """

    users: list[str]
    items: list[str]
    offsets: np.ndarray
    sequence: np.ndarray
    item_text: list[str] | None = None
    times: np.ndarray | None = None
    attributes: pl.DataFrame | None = None

    def of(self, user: int) -> np.ndarray:
        """Item indices of the user with this index, oldest first."""
        return self.sequence[self.offsets[user] : self.offsets[user + 1]]

    def history(self, user: str) -> list[str]:
        """Item ids of a user, oldest first.

        Raises
        ------
        RecsysError
            When there is no such user.
        """
        try:
            index = self.users.index(user)
        except ValueError:
            example = f"; a known one is {self.users[0]!r}" if self.users else ""
            raise RecsysError(
                f"unknown user {user!r}: the data holds {len(self.users)} users{example}"
            ) from None
        return [self.items[item] for item in self.of(index)]

    def select(self, user_indices: Sequence[int] | np.ndarray) -> Interactions:
        """The given users only, in the given order, over the same item vocabulary."""
        chosen = np.asarray(user_indices, dtype=np.int64)
        lengths = (self.offsets[1:] - self.offsets[:-1])[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Where each chosen event lies: its user's start, and its place among that user's events.
        places = np.arange(offsets[-1]) + np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        return replace(
            self,
            users=[self.users[user] for user in chosen],
            offsets=offsets,
            sequence=self.sequence[places],
            times=None if self.times is None else self.times[places],
        )

    def where(self, kept: np.ndarray) -> Interactions:
        """The events where bool[events] holds, over the same users and item vocabulary."""
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(kept)]).astype(np.int64)[self.offsets],
            sequence=self.sequence[kept],
            times=None if self.times is None else self.times[kept],
        )

    def fingerprint(self) -> str:
        """sha256 (hex) of users, items, order and texts: all that training reads."""
        digest = hashlib.sha256()
        for texts in (self.users, self.items, self.item_text or []):
            for text in texts:
                encoded = text.encode()
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
            digest.update(b"\xff" * 8)
        digest.update(self.offsets.astype("<i8").tobytes())
        digest.update(self.sequence.astype("<i4").tobytes())
        return digest.hexdigest()

    def summary(self) -> dict[str, str | int]:
        """Fingerprint and size, as the lineage of a model names what it was trained on."""
        return {
            "fingerprint": self.fingerprint(),
            "users": len(self.users),
            "items": len(self.items),
            "interactions": len(self.sequence),
        }


def write_interactions(interactions: Interactions, folder: Path) -> None:
    """Write a folder that `load_interactions` reads back without loss, vocabulary included."""
    folder.mkdir(parents=True, exist_ok=True)
    items = pl.DataFrame({"item": interactions.items}, schema={"item": pl.String})
    if interactions.item_text is not None:
        items = items.with_columns(pl.Series("text", interactions.item_text, dtype=pl.String))
    if interactions.attributes is not None:
        items = items.hstack(interactions.attributes)
    sequences = pl.DataFrame(
        {
            "user": interactions.users,
            "items": [interactions.of(user).tolist() for user in range(len(interactions.users))],
        },
        schema={"user": pl.String, "items": pl.List(pl.Int32)},
    )
    if interactions.times is not None:
        bounds = zip(interactions.offsets, interactions.offsets[1:], strict=False)
        times = [interactions.times[start:end].tolist() for start, end in bounds]
        sequences = sequences.with_columns(pl.Series("times", times, dtype=pl.List(pl.Float64)))
    write_atomically(folder / "items.parquet", items.write_parquet)
    write_atomically(folder / "sequences.parquet", sequences.write_parquet)


def load_interactions(path: Path | str, *, endpoint: str | None = None) -> Interactions:
    """Read a file or folder in one of the formats named in the module's docstring.

    Events are sorted by time; those of the same moment stay in the file's order, and an event that
    is there twice at the same moment counts once. Of a log with a column ``event`` only a user's
    first engagement with each item is kept. Users with a single event are kept.

    Parameters
    ----------
    path
        A path, ``s3://bucket/key`` or ``gs://bucket/key``, of a file or a folder.
    endpoint
        See `recsys.data.source.local_copy`.

    Raises
    ------
    RecsysError
        When nothing readable is there; a bad row is named by file and line.
    """
    with local_copy(path, endpoint=endpoint) as local:
        if local.is_dir() and (local / "sequences.parquet").exists():
            return _load_written(local)
        file = events_file(local)
        events = without_duplicates(read_events(file), Report())
        if "event" in events.columns:
            events = first_engagements(events, Report())
        catalogue = catalogue_beside(file)
        return interactions_of(events, item_texts(catalogue, events), catalogue)


def interactions_of(
    events: pl.DataFrame,
    texts: dict[str, str] | None = None,
    catalogue: pl.DataFrame | None = None,
) -> Interactions:
    """Make the compact table of events that are in order within each user.

    Parameters
    ----------
    events
        Columns ``user``, ``item`` and perhaps ``time``, as `recsys.data.events` makes them.
    texts
        Text of each item of the catalogue; its items extend the vocabulary.
    catalogue
        Where the items' attributes are.
    """
    vocabulary = _sorted_ids(set(events["item"].unique()) | set(texts or ()))
    users = _sorted_ids(set(events["user"].unique()))
    indexed = events.select(
        pl.col("user").replace_strict(users, range(len(users)), return_dtype=pl.Int64),
        pl.col("item").replace_strict(vocabulary, range(len(vocabulary)), return_dtype=pl.Int32),
        *(["time"] if "time" in events.columns else []),
    ).sort("user", maintain_order=True)
    counts = np.bincount(indexed["user"].to_numpy(), minlength=len(users))
    return Interactions(
        users=users,
        items=vocabulary,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        sequence=indexed["item"].to_numpy().astype(np.int32),
        item_text=None if texts is None else [texts.get(item, "") for item in vocabulary],
        times=indexed["time"].to_numpy() if "time" in events.columns else None,
        attributes=None if catalogue is None else attributes_of(catalogue, vocabulary),
    )


def catalogue_beside(file: Path) -> pl.DataFrame | None:
    """The catalogue beside a file of events, as `load_catalogue` gives it; None if there is none."""
    candidates = (file.with_name(f"{stem}{suffix}") for stem in STEMS for suffix in SUFFIXES)
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    return None if found is None or found == file else load_catalogue(found)


def item_texts(catalogue: pl.DataFrame | None, events: pl.DataFrame) -> dict[str, str] | None:
    """Texts of the items: of the catalogue where there is one, else of the events themselves."""
    if catalogue is not None:
        items = catalogue
    elif "text" in events.columns:
        items = events.drop_nulls("text").unique("item", keep="first", maintain_order=True)
    else:
        return None
    if not (items["text"] != "").any():
        return None
    return dict(zip(items["item"].to_list(), items["text"].to_list(), strict=True))


def _load_written(folder: Path) -> Interactions:
    try:
        sequences = pl.read_parquet(folder / "sequences.parquet")
        items = pl.read_parquet(folder / "items.parquet")
        _require_written(folder / "sequences.parquet", sequences, user=pl.String, items=LIST)
        _require_written(folder / "items.parquet", items, item=pl.String)
        lengths = sequences["items"].list.len().to_numpy()
        flat = sequences["items"].explode().drop_nulls().to_numpy()
        users, vocabulary = sequences["user"].to_list(), items["item"].to_list()
        texts = items["text"].fill_null("").to_list() if "text" in items.columns else None
        attributes = attributes_of(items, vocabulary)
        times = None
        if "times" in sequences.columns:
            times = sequences["times"].explode().drop_nulls().cast(pl.Float64).to_numpy()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecsysError(f"{folder} is not a readable folder of interactions: {error}") from error
    if len(flat) and not 0 <= flat.min() <= flat.max() < len(vocabulary):
        raise RecsysError(
            f"{folder / 'sequences.parquet'} names item {int(flat.max())}, but items.parquet holds "
            f"{len(vocabulary)} items; write the folder again"
        )
    if times is not None and len(times) != len(flat):
        raise RecsysError(
            f"{folder / 'sequences.parquet'} has {len(times)} times for {len(flat)} events; "
            "write the folder again"
        )
    return Interactions(
        users=users,
        items=vocabulary,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        sequence=flat.astype(np.int32),
        item_text=texts,
        times=times,
        attributes=attributes,
    )


def _require_written(file: Path, frame: pl.DataFrame, **kinds: pl.DataType) -> None:
    """Check columns of a file that `write_interactions` may have written; the first is an id."""
    for name, kind in kinds.items():
        column = frame[name]
        values = column.list.explode(empty_as_null=False) if column.dtype == LIST else column
        if column.dtype != kind:
            wrong = f"is of type {column.dtype}, it must be {kind}"
        elif column.null_count() or values.null_count():
            wrong = "has missing values"
        elif name == next(iter(kinds)) and column.n_unique() < len(column):
            wrong = "names an id twice"
        else:
            continue
        raise RecsysError(f"{file}: column {name!r} {wrong}; write the folder again")


def _sorted_ids(ids: set[str]) -> list[str]:
    """Sorted ids, numbers by value, so that the vocabulary does not hang on the events' order."""
    return sorted(ids, key=lambda id: (not id.isdecimal(), int(id) if id.isdecimal() else 0, id))
