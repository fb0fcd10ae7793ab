"""Who interacted with what, in which order: one compact table and the files it is read from.

Formats that `load_interactions` knows, told apart by what is in the file or folder:

- a folder written by `write_interactions` (``sequences.parquet``, ``items.parquet``);
- a synthetic shop (``events.csv`` or ``events.parquet``, with ``items.csv`` for the texts);
- CSV or Parquet with a row an event: columns ``user``, ``item`` and, unless the rows are in
  order already, ``time``;
- text with a line an event, ``user item``, oldest first within a user (the SASRec copies);
- text with a line a user, ``user item item …``, oldest first (the S3-Rec copies).

A folder without one of the named files is searched for its only data file; an ``items.tsv``
beside it (item, code, text) gives the item texts.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.errors import RecsysError
from recsys.files import write_atomically


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
    """

    users: list[str]
    items: list[str]
    offsets: np.ndarray
    sequence: np.ndarray
    item_text: list[str] | None = None

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
        parts = [self.of(user) for user in chosen]
        return Interactions(
            users=[self.users[user] for user in chosen],
            items=self.items,
            offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            sequence=np.concatenate(parts or [np.empty(0)]).astype(np.int32),
            item_text=self.item_text,
        )

    def fingerprint(self) -> str:
        """sha256 (hex) of users, items, order and texts: equal data, equal fingerprint."""
        digest = hashlib.sha256()
        for texts in (self.users, self.items, self.item_text or []):
            for text in texts:
                encoded = text.encode()
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
            digest.update(b"\xff" * 8)
        digest.update(self.offsets.astype("<i8").tobytes())
        digest.update(self.sequence.astype("<i4").tobytes())
        return digest.hexdigest()


def write_interactions(interactions: Interactions, folder: Path) -> None:
    """Write a folder that `load_interactions` reads back without loss, vocabulary included."""
    folder.mkdir(parents=True, exist_ok=True)
    items = pl.DataFrame({"item": interactions.items}, schema={"item": pl.String})
    if interactions.item_text is not None:
        items = items.with_columns(pl.Series("text", interactions.item_text, dtype=pl.String))
    sequences = pl.DataFrame(
        {
            "user": interactions.users,
            "items": [interactions.of(user).tolist() for user in range(len(interactions.users))],
        },
        schema={"user": pl.String, "items": pl.List(pl.Int32)},
    )
    write_atomically(folder / "items.parquet", items.write_parquet)
    write_atomically(folder / "sequences.parquet", sequences.write_parquet)


def load_interactions(path: Path | str) -> Interactions:
    """Read a file or folder in one of the formats named in the module's docstring.

    Raises
    ------
    RecsysError
        When nothing readable is there; a bad row is named by file and line.
    """
    path = Path(path)
    if not path.exists():
        raise RecsysError(f"no data at {path}: give a folder or file of interactions")
    if path.is_dir() and (path / "sequences.parquet").exists():
        return _load_written(path)
    file = _data_file(path) if path.is_dir() else path
    if file.suffix in (".csv", ".parquet"):
        events = _read_table(file)
        texts = _shop_texts(file.parent)
    else:
        events = _read_text(file)
        texts = _tab_separated_texts(file.parent / "items.tsv")
    return _from_events(file, *events, texts)


def _data_file(folder: Path) -> Path:
    for name in ("events.parquet", "events.csv", "interactions.parquet", "interactions.csv"):
        if (folder / name).exists():
            return folder / name
    found = sorted(
        file
        for file in folder.iterdir()
        if file.suffix in (".txt", ".csv", ".parquet") and file.stem.lower() != "readme"
    )
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise RecsysError(
            f"{folder} must hold one file of interactions (.csv, .parquet or .txt), found {names}; "
            "give the path of the file"
        )
    return found[0]


def _load_written(folder: Path) -> Interactions:
    try:
        sequences = pl.read_parquet(folder / "sequences.parquet")
        items = pl.read_parquet(folder / "items.parquet")
        lengths = sequences["items"].list.len().to_numpy()
        flat = sequences["items"].explode().drop_nulls().to_numpy()
        users, vocabulary = sequences["user"].to_list(), items["item"].to_list()
        texts = items["text"].to_list() if "text" in items.columns else None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecsysError(f"{folder} is not a readable folder of interactions: {error}") from error
    if len(flat) and not 0 <= flat.min() <= flat.max() < len(vocabulary):
        raise RecsysError(
            f"{folder / 'sequences.parquet'} names item {int(flat.max())}, but items.parquet holds "
            f"{len(vocabulary)} items; write the folder again"
        )
    return Interactions(
        users=users,
        items=vocabulary,
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        sequence=flat.astype(np.int32),
        item_text=texts,
    )


def _read_table(file: Path) -> tuple[list[str], list[str]]:
    """(user, item) of every event, oldest first within a user, from a CSV or Parquet table."""
    if file.suffix == ".csv":
        frame = _read_csv(file)
        first_row, row_name = 2, "line"
    else:
        try:
            frame = pl.read_parquet(file)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise RecsysError(f"{file} is not a readable Parquet file: {error}") from error
        first_row, row_name = 1, "row"
    for column in ("user", "item"):
        if column not in frame.columns:
            raise RecsysError(
                f"{file} has no column {column!r}; its columns are {', '.join(frame.columns)}"
            )
    columns = [pl.col("user").cast(pl.String), pl.col("item").cast(pl.String)]
    timed = "time" in frame.columns
    if timed and frame["time"].dtype == pl.String:
        number = pl.col("time").cast(pl.Float64, strict=False)
        moment = pl.col("time").str.to_datetime(strict=False, time_zone="UTC")
        columns.append(pl.coalesce(number, moment.dt.epoch("us") / 1e6).alias("time"))
    elif timed:
        columns.append(pl.col("time"))
    typed = frame.select(columns)
    for column in typed.columns:
        usable = pl.col(column).is_not_null()
        if typed[column].dtype == pl.String:
            usable &= pl.col(column).str.strip_chars() != ""
        if typed[column].dtype.is_float():
            usable &= pl.col(column).is_finite()
        bad = typed.select(usable.fill_null(False).not_().arg_true()).to_series()
        if len(bad):
            value = frame[column][int(bad[0])]
            wanted = "a number or a date" if column == "time" else f"a {column} id"
            raise RecsysError(
                f"{file}, {row_name} {int(bad[0]) + first_row}: {column} is {value!r}, "
                f"it must be {wanted}"
            )
    if timed:
        # A stable sort keeps events of the same moment in the file's order.
        typed = typed.sort("time", maintain_order=True)
    if "event" in frame.columns:
        # A log of views, carts and purchases tells of one engagement several times; the first
        # time that a user turns to an item is the event to predict.
        typed = typed.unique(["user", "item"], keep="first", maintain_order=True)
    return typed["user"].to_list(), typed["item"].to_list()


def _read_csv(file: Path) -> pl.DataFrame:
    try:
        # Everything is read as text: ids keep their leading zeros.
        return pl.read_csv(file, infer_schema=False)
    except pl.exceptions.NoDataError:
        raise RecsysError(f"{file} is empty; it needs the columns user and item") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        raise RecsysError(_bad_csv_row(file) or f"{file} is not readable CSV: {error}") from error


def _bad_csv_row(file: Path) -> str | None:
    with file.open(newline="", encoding="utf-8", errors="replace") as lines:
        rows = csv.reader(lines)
        width = len(next(rows))
        for row in rows:
            if row and len(row) != width:
                return (
                    f"{file}, line {rows.line_num}: {len(row)} fields, the header has {width}; "
                    "mend or remove the line"
                )
    return None


def _read_text(file: Path) -> tuple[list[str], list[str]]:
    """(user, item) of every event from lines "user item" or "user item item …"."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise RecsysError(f"{file} is not readable text: {error}") from error
    users: list[str] = []
    items: list[str] = []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 2:
            raise RecsysError(
                f"{file}, line {number}: {line!r} has a user but no item; "
                "a line is a user and one or more items"
            )
        users += fields[:1] * (len(fields) - 1)
        items += fields[1:]
    return users, items


def _shop_texts(folder: Path) -> dict[str, str] | None:
    file = folder / "items.csv"
    if not file.exists():
        return None
    frame = _read_csv(file)
    text = next((column for column in ("text", "title") if column in frame.columns), None)
    if text is None or "item" not in frame.columns:
        return None
    return dict(zip(frame["item"].to_list(), frame[text].fill_null("").to_list(), strict=True))


def _tab_separated_texts(file: Path) -> dict[str, str] | None:
    if not file.exists():
        return None
    texts: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        fields = line.split("\t")
        if len(fields) != 3:
            raise RecsysError(
                f"{file}, line {number}: {len(fields)} tab-separated fields, "
                "it must be 3 (item, code, text)"
            )
        if number > 1 or fields[0] != "item_id":
            texts[fields[0]] = fields[2].replace("|", " ")
    return texts


def _from_events(
    file: Path, event_users: list[str], event_items: list[str], texts: dict[str, str] | None
) -> Interactions:
    if not event_users:
        raise RecsysError(f"{file} holds no interactions")
    events = pl.DataFrame({"user": event_users, "item": event_items})
    vocabulary = _sorted_ids(set(event_items) | set(texts or ()))
    users = _sorted_ids(set(event_users))
    indexed = events.select(
        pl.col("user").replace_strict(users, range(len(users)), return_dtype=pl.Int64),
        pl.col("item").replace_strict(vocabulary, range(len(vocabulary)), return_dtype=pl.Int32),
    ).sort("user", maintain_order=True)
    counts = np.bincount(indexed["user"].to_numpy(), minlength=len(users))
    return Interactions(
        users=users,
        items=vocabulary,
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        sequence=indexed["item"].to_numpy().astype(np.int32),
        item_text=None if texts is None else [texts.get(item, "") for item in vocabulary],
    )


def _sorted_ids(ids: set[str]) -> list[str]:
    """Sorted ids, numbers by value, so that the vocabulary does not hang on the events' order."""
    return sorted(ids, key=lambda id: (not id.isdecimal(), int(id) if id.isdecimal() else 0, id))
