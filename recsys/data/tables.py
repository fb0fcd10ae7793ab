"""Tables in files, column by column: known under several names, typed, and checked row by row.

CSV, TSV and RecBole's atomic files (``.csv``, ``.tsv``, ``.inter``, ``.item``), JSON lines
(``.jsonl``), all of these also gzipped (``.gz``), and Parquet. The first line of CSV and TSV names
the columns; CSV may be parted by semicolons, tabs or bars too. Lines without a value are skipped.

A value that its column does not allow is, without a `Report`, an error that names file and line;
with one, its row is left out and counted there.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

import polars as pl

from recsys.data.report import Report
from recsys.errors import RecsysError

TAB_SEPARATED = (".tsv", ".inter", ".item")
TEXT_FORMATS = (".csv", *TAB_SEPARATED, ".jsonl")
SUFFIXES = (".parquet", *TEXT_FORMATS, *(f"{suffix}.gz" for suffix in TEXT_FORMATS))

# Of CSV files; and of a header, which tells the separator, so many characters are looked at.
SEPARATORS = (",", ";", "\t", "|")
LONGEST_HEADER = 2**16

# Row number in the file, from 0, kept until a row has been checked.
ROW = "__row"
# JSON lines with more keys than this: keys that fewer than half of the lines have are gathered, as
# "key: value" parted by "|", in one column.
MOST_COLUMNS = 200
ATTRIBUTES = "attributes"
# Above it not every whole number is a float64, so that ids that differ could become the same.
LARGEST_WHOLE = 2**53
# Numbers that are no moments, whatever part of a second they count (in nanoseconds: the year 5138).
NO_TIME = 1e20
# Tables that go beside the one that is looked for.
BESIDE = ("readme", "items", "products", "catalogue", "users", "queries", "judgments")
DATE_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M%#z",
    "%Y-%m-%d",
)


@dataclass(frozen=True)
class Column:
    """A column that a loader wants.

    Attributes
    ----------
    name
        What it is called in the loaded frame.
    kind
        ``id`` (text that is not blank), ``text``, ``number`` (finite) or ``time`` (seconds since
        1970, as float; ISO 8601 dates without a zone are UTC; numbers too large for seconds are
        taken as milli-, micro- or nanoseconds).
    aliases
        Other names it goes by, the likeliest first; case, spaces, ``_`` and ``-`` do not count.
    required
        Whether a file without the column is refused.
    blank
        Whether single values may be missing; they are null then.
    allowed, wanted
        What else the value must be, as an expression and in words.
    """

    name: str
    kind: Literal["id", "text", "number", "time"]
    aliases: tuple[str, ...] = ()
    required: bool = True
    blank: bool = False
    allowed: Callable[[pl.Expr], pl.Expr] | None = None
    wanted: str = ""

    def wants(self) -> str:
        """What a value must be, in words."""
        article = "an" if self.name[0] in "aeio" else "a"
        of_kind = {
            "id": f"{article} {self.name} id",
            "text": "text",
            "number": "a number",
            "time": "a number or a date (ISO 8601)",
        }
        return self.wanted or of_kind[self.kind]


@dataclass(frozen=True)
class Table:
    """A file's rows as they stand there: text formats as text, Parquet with its own types.

    Attributes
    ----------
    file
        Where they were read from.
    frame
        The rows, and their numbers in the file in the column `ROW`.
    """

    file: Path
    frame: pl.DataFrame

    @property
    def columns(self) -> list[str]:
        """The file's names of its columns."""
        return [name for name in self.frame.columns if name != ROW]

    def _source_of(self, column: Column) -> str | None:
        """The file's name of a column, or None where it has no such column."""
        known = {_plain(name): name for name in reversed(self.columns)}
        names = map(_plain, (column.name, *column.aliases))
        return next((known[name] for name in names if name in known), None)

    def has(self, *columns: Column) -> bool:
        """Whether the file has all of these columns."""
        return all(self._source_of(column) is not None for column in columns)

    def load(
        self, columns: Sequence[Column], *, others: bool = False, report: Report | None = None
    ) -> pl.DataFrame:
        """The columns that are there, typed and checked, in the file's order of rows.

        Parameters
        ----------
        others
            Keep all further columns too, under their own names; as numbers where all values are.
        report
            Where bad rows are counted; without it the first is an error.

        Raises
        ------
        RecsysError
            When a required column is missing, or on a bad value.
        """
        sources = {column: self._source_of(column) for column in columns}
        for column, source in sources.items():
            if source is None and column.required:
                known = f", nor {', '.join(column.aliases)}" if column.aliases else ""
                raise RecsysError(
                    f"{self.file} has no column {column.name!r}{known}; its columns are "
                    f"{', '.join(self.columns)}: rename the one that is meant"
                )
        found = {column: source for column, source in sources.items() if source is not None}
        for column, source in found.items():
            self._require_plain(column, source)
        loaded: dict[str, pl.Series] = {}
        good = pl.repeat(True, len(self.frame), dtype=pl.Boolean, eager=True)
        for column, source in found.items():
            raw = self.frame[source]
            loaded[column.name] = typed = _typed(raw, column)
            allowed = _allowed(typed, raw, column)
            bad = (good & ~allowed).arg_true()
            if not len(bad):
                continue
            first = int(bad[0])
            if report is None:
                raise RecsysError(
                    f"{self._place(first)}: {column.name} is {raw[first]!r}, "
                    f"it must be {column.wants()}"
                )
            report.note(
                f"{column.name} is not {column.wants()}", len(bad), "dropped", [self._place(first)]
            )
            good &= allowed
        if others:
            for name in self.frame.columns:
                # A nameless first column is the row number that pandas writes.
                if name not in found.values() and name not in (ROW, "", *loaded):
                    loaded[name] = _numbers_if_all(self.frame[name])
        return pl.DataFrame(loaded).filter(good)

    def _require_plain(self, column: Column, source: str) -> None:
        """Refuse a column that is there twice, or whose values are no single ones."""
        if f"{source}_duplicated_0" in self.frame.columns:
            raise RecsysError(f"{self.file} has two columns {source!r}; rename or remove one")
        kind = self.frame.schema[source]
        if kind.is_nested() or kind in (pl.Binary, pl.Object):
            raise RecsysError(
                f"{self.file}: column {source!r} holds values of type {kind}; each must be "
                f"{column.wants()}"
            )

    def _place(self, index: int) -> str:
        """File and line (in Parquet: row, from 1) of a row of the frame."""
        row, format = self.frame[ROW][index], _format(self.file)
        if format == ".parquet":
            return f"{self.file}, row {row + 1}"
        if format == ".jsonl":
            return f"{self.file}, line {row + 1}"
        line = row + 2
        if format == ".csv":
            # A quoted field may hold line breaks, so lines are counted as the records go by.
            with _open_text(self.file) as lines:
                records = csv.reader(lines, delimiter=_separator(self.file))
                for _ in zip(range(row + 2), records, strict=False):
                    line = records.line_num
        return f"{self.file}, line {line}"


def read_table(file: Path) -> Table:
    """Read a file in one of the formats of this module.

    Raises
    ------
    RecsysError
        When it is of another format, empty or not readable; a bad line is named.
    """
    format = _format(file)
    if format is None:
        raise RecsysError(f"{file} is of no known format: use {', '.join(SUFFIXES)}")
    try:
        if format == ".parquet":
            frame = pl.read_parquet(file).with_row_index(ROW)
        elif format == ".jsonl":
            frame = _read_json_lines(file)
        else:
            frame = _read_separated(file, format)
    except pl.exceptions.NoDataError:
        raise RecsysError(f"{file} is empty; its first line must name the columns") from None
    except (pl.exceptions.PolarsError, OSError, EOFError, zlib.error) as error:
        wrong = str(error).splitlines()[0]
        wrong += "; save it as UTF-8" if "utf-8" in wrong else ""
        name = {".parquet": "Parquet", ".csv": "CSV", ".jsonl": "JSON lines"}.get(format, "TSV")
        raise RecsysError(
            (_ragged_line(file) if format == ".csv" else None)
            or f"{file} is not a readable {name} file: {wrong}"
        ) from error
    return Table(file, frame)


def has_known_suffix(name: str) -> bool:
    """Whether a file of this name may hold data (``.txt`` are sequences without a header)."""
    return name.endswith((*SUFFIXES, ".txt"))


def data_file(
    path: Path, stems: Sequence[str], *, what: str, or_only: bool = False, text: bool = False
) -> Path:
    """The path itself where it is a file, else the folder's first file with one of these names.

    Parameters
    ----------
    stems
        Names without suffix, the preferred first.
    what
        What is looked for, for the error.
    or_only
        Take the folder's only data file where none has one of the names; a readme and the tables
        that go beside others (items, users, queries, …) do not count.
    text
        Whether ``.txt`` counts as data.

    Raises
    ------
    RecsysError
        When there is none, or more than one to choose from.
    """
    if not path.is_dir():
        return path
    for stem in stems:
        for suffix in SUFFIXES:
            if (path / f"{stem}{suffix}").exists():
                return path / f"{stem}{suffix}"
    suffixes = (*SUFFIXES, ".txt") if text else SUFFIXES
    found = sorted(
        file
        for file in path.iterdir()
        if file.name.endswith(suffixes) and file.name.partition(".")[0].lower() not in BESIDE
    )
    if or_only and len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found) or "none"
    wanted = " or ".join(f"{stem}.csv" for stem in stems)
    raise RecsysError(
        f"{path} must hold one file of {what} ({wanted}, or .parquet, …), found {names}; "
        "give the path of the file"
    )


def _format(file: Path) -> str | None:
    suffix = Path(file.name.removesuffix(".gz")).suffix
    return suffix if suffix in TEXT_FORMATS or file.suffix == ".parquet" else None


def _plain(name: str) -> str:
    # RecBole writes the type behind the name: "user_id:token".
    return name.partition(":")[0].lower().translate({ord(mark): None for mark in "_- "})


def _open_text(file: Path) -> TextIO:
    opened = gzip.open if file.suffix == ".gz" else open
    return opened(file, "rt", newline="", encoding="utf-8", errors="replace")


def _read_separated(file: Path, format: str) -> pl.DataFrame:
    tabs = format in TAB_SEPARATED
    # Everything is read as text: ids keep their leading zeros.
    frame = pl.read_csv(
        file,
        infer_schema=False,
        separator="\t" if tabs else _separator(file),
        quote_char=None if tabs else '"',
    )
    blank = pl.all_horizontal(pl.exclude(ROW).is_null())
    return frame.with_row_index(ROW).filter(~blank)


def _separator(file: Path) -> str:
    """What parts the fields of a CSV file: that of which the header has most, a comma in doubt.

    Where numbers have a decimal comma, spreadsheets write semicolons.
    """
    try:
        with _open_text(file) as lines:
            header = lines.readline(LONGEST_HEADER)
    except (OSError, EOFError, zlib.error):
        return ","  # what is wrong with the file, its reader says
    return max(SEPARATORS, key=header.count)


def _read_json_lines(file: Path) -> pl.DataFrame:
    rows: dict[int, dict[str, str | None]] = {}
    with _open_text(file) as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise RecsysError(f"{file}, line {number + 1}: it is not a JSON object")
            rows[number] = {key: _json_text(value) for key, value in row.items()}
    lines_with = Counter(key for row in rows.values() for key in row)
    wide = len(lines_with) > MOST_COLUMNS
    columns = [key for key, count in lines_with.items() if not wide or 2 * count >= len(rows)]
    data = {key: [row.get(key) for row in rows.values()] for key in columns}
    if wide:
        data[ATTRIBUTES] = [
            "|".join(f"{key}: {text}" for key, text in row.items() if key not in data and text)
            for row in rows.values()
        ]
    if not data:
        raise pl.exceptions.NoDataError
    frame = pl.DataFrame(data, schema=dict.fromkeys(data, pl.String))
    return frame.with_columns(pl.Series(ROW, list(rows), dtype=pl.UInt32))


def _json_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


def _ragged_line(file: Path) -> str | None:
    try:
        with _open_text(file) as lines:
            records = csv.reader(lines, delimiter=_separator(file))
            width = len(next(records, []))
            for record in records:
                if record and len(record) != width:
                    return (
                        f"{file}, line {records.line_num}: {len(record)} fields, the header has "
                        f"{width}; mend or remove the line"
                    )
    except (csv.Error, OSError, EOFError, zlib.error):
        pass
    return None


def _typed(raw: pl.Series, column: Column) -> pl.Series:
    if column.kind == "time":
        return _seconds(raw)
    if column.kind == "number":
        text = raw.str.strip_chars() if raw.dtype == pl.String else raw
        return text.cast(pl.Float64, strict=False)
    if raw.dtype.is_float():
        raw = _as_counted(raw)
    text = raw.cast(pl.String)
    return text.set(_is_blank(text), None) if column.blank else text


def _as_counted(ids: pl.Series) -> pl.Series:
    """Ids that became floats because some are missing (as pandas does) as the whole numbers they
    were, and null where they are missing."""
    ids = ids.fill_nan(None)
    whole = ids.cast(pl.Int64, strict=False)
    return whole if (whole == ids).all() and (ids.abs().max() or 0) < LARGEST_WHOLE else ids


def _allowed(typed: pl.Series, raw: pl.Series, column: Column) -> pl.Series:
    good = typed.is_not_null()
    if column.kind == "id":
        good &= ~_is_blank(typed)
    if column.kind in ("number", "time"):
        good &= typed.is_finite().fill_null(False)
    if column.allowed is not None:
        allowed = pl.select(column.allowed(pl.lit(typed))).to_series()
        good &= allowed.fill_null(False)
    return good | _is_blank(raw) if column.blank else good


def _is_blank(values: pl.Series) -> pl.Series:
    if values.dtype != pl.String:
        return values.is_null()
    return values.str.strip_chars().fill_null("") == ""


def _seconds(raw: pl.Series) -> pl.Series:
    """Seconds since 1970 as floats; null where a value is neither a number nor a date."""
    if raw.dtype.is_temporal():
        return raw.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if raw.dtype != pl.String:
        return _scaled(raw.cast(pl.Float64, strict=False))
    text = raw.str.strip_chars()
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() == raw.null_count():
        return _scaled(numbers)
    # The formats are tried one by one: guessing would take 12/1/2010 for the twelfth of January.
    text = text.str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
    moments = [
        text.str.to_datetime(format, strict=False, time_unit="us", time_zone="UTC")
        for format in DATE_FORMATS
    ]
    dates = pl.select(pl.coalesce(moments)).to_series()
    return pl.select(pl.coalesce(_scaled(numbers), dates.dt.epoch("us") / 1e6)).to_series()


def _scaled(numbers: pl.Series) -> pl.Series:
    """Seconds, from whatever part of a second the numbers count (1e11 s is the year 5138)."""
    moments = numbers.set(~(numbers.abs() < NO_TIME), None)
    largest = moments.abs().max() or 0.0
    for unit in (1e9, 1e6, 1e3):
        if 1e8 * unit <= largest:
            return moments / unit
    return moments


def _numbers_if_all(values: pl.Series) -> pl.Series:
    if values.dtype != pl.String:
        return values
    numbers = values.cast(pl.Float64, strict=False)
    return numbers if numbers.null_count() == values.null_count() else values
