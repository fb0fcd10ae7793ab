from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from recsys.data.columns import ITEM, RATING, TIME, USER
from recsys.data.report import Report
from recsys.data.tables import Column, read_table
from recsys.errors import RecsysError

COLUMNS = [USER, ITEM, TIME, RATING]
CSV = "user,item,time,rating\nu1,007,1,5\nu2,b,2,4.5\n"
ROWS = [("u1", "007", 1.0, 5.0), ("u2", "b", 2.0, 4.5)]


def write(file: Path, text: str) -> Path:
    data = text.encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", CSV),
        ("a.csv.gz", CSV),
        ("a.tsv", CSV.replace(",", "\t")),
        ("a.tsv.gz", CSV.replace(",", "\t")),
        ("a.csv", "Reviewer-ID,asin,Unix Review Time,overall\nu1,007,1,5\n\nu2,b,2,4.5\n\n"),
        (
            "a.inter",
            "user_id:token\titem_id:token\ttimestamp:float\trating:float\n"
            "u1\t007\t1\t5\nu2\tb\t2\t4.5\n",
        ),
        (
            "a.jsonl",
            '{"user": "u1", "item": "007", "time": 1, "rating": 5}\n\n'
            '{"rating": 4.5, "user": "u2", "item": "b", "time": 2}\n',
        ),
    ],
)
def test_the_same_rows_come_out_of_every_text_format(tmp_path: Path, name: str, text: str) -> None:
    assert read_table(write(tmp_path / name, text)).load(COLUMNS).rows() == ROWS


def test_parquet_keeps_its_own_types_until_they_are_checked(tmp_path: Path) -> None:
    pl.DataFrame(
        {"user": ["u1"], "item": [7], "time": [datetime(2025, 1, 1, tzinfo=UTC)], "rating": [5]}
    ).write_parquet(tmp_path / "a.parquet")
    row = read_table(tmp_path / "a.parquet").load(COLUMNS).row(0)
    assert row == ("u1", "7", 1_735_689_600.0, 5.0)


@pytest.mark.parametrize(
    "users", [[7.0, 8.0, None], [7.0, 8.0, float("nan")]], ids=["missing", "not a number"]
)
def test_ids_that_became_floats_for_a_missing_one_are_whole_numbers(
    tmp_path: Path, users: list[float | None]
) -> None:
    pl.DataFrame({"user": users, "item": ["a", "b", "c"]}).write_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.load([USER, ITEM], report=Report()).rows() == [("7", "a"), ("8", "b")]
    with pytest.raises(RecsysError, match="row 3: user is (None|nan), it must be a user id"):
        table.load([USER, ITEM])


@pytest.mark.parametrize("column", ["user", "time", "rating"])
@pytest.mark.parametrize("values", [[[1], [2]], [b"\xff", b"b"], [{"a": 1}, {"a": 2}]])
def test_columns_of_lists_bytes_and_structs_are_refused(
    tmp_path: Path, column: str, values: list
) -> None:
    plain = {"user": ["u", "v"], "item": ["i", "j"], "time": [1, 2], "rating": [3, 4]}
    pl.DataFrame(plain | {column: values}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(RecsysError, match=f"a.parquet: column '{column}' holds values of type"):
        read_table(tmp_path / "a.parquet").load(COLUMNS)


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["3", "20.5"], [3.0, 20.5]),
        (["1735689600", "5"], [1_735_689_600.0, 5.0]),
        (["1735689600000"], [1_735_689_600.0]),
        (["1735689600000000"], [1_735_689_600.0]),
        (["2025-01-01", "2025-01-01T00:00:00Z", "2025-01-01 01:00:00+01:00"], [1_735_689_600.0] * 3),
        (["2025-01-01 00:00:00.25", "2025-01-01 00:01"], [1_735_689_600.25, 1_735_689_660.0]),
    ],
)
def test_times_become_seconds(tmp_path: Path, times: list[str], seconds: list[float]) -> None:
    rows = "\n".join(f"u,i,{time}" for time in times)
    file = write(tmp_path / "a.csv", f"user,item,time\n{rows}\n")
    assert read_table(file).load([USER, ITEM, TIME])["time"].to_list() == seconds


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "user,item,rating\nu,i,nan\n", "a.csv, line 2: rating is 'nan', it must be a num"),
        ("a.csv.gz", "user,item,rating\nu,i,3\nu,i,\n", "a.csv.gz, line 3: rating is None"),
        ("a.csv", "user,item,rating\nu,i,inf\n", "line 2: rating is 'inf'"),
        ("a.csv", "user,item,rating\n\n\nu,i,good\n", "line 4: rating is 'good'"),
        ("a.csv", 'user,item,rating\n"u\n1",i,3\nu,,3\n', "line 4: item is None, it must be an item"),
        ("a.csv", "user,item,time,rating\nu,i,12/1/2010,3\n", "time is '12/1/2010', it must be a"),
        ("a.csv", "user,item,time,rating\nu,i,1e300,3\n", "line 2: time is '1e300', it must be a"),
        ("a.csv", "user,item,item,rating\nu,i,j,3\n", "a.csv has two columns 'item'; rename or"),
        ("a.tsv", "user\titem\trating\nu\t \t3\n", "a.tsv, line 2: item is ' '"),
        ("a.jsonl", '\n{"user": "u", "item": "i", "rating": [3]}', "a.jsonl, line 2: rating is '[3]'"),
        ("a.jsonl", '{"user": "u"\n', "a.jsonl, line 1: it is not a JSON object"),
        ("a.jsonl", "\n", "a.jsonl is empty"),
        ("a.csv.gz", "", "a.csv.gz is empty"),
        ("a.csv", "user,rating\nu,3\n", "; its columns are user, rating: rename the one that is meant"),
        ("a.xlsx", "", "a.xlsx is of no known format: use .parquet, .csv"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(
    tmp_path: Path, name: str, text: str, sentence: str
) -> None:
    with pytest.raises(RecsysError) as error:
        read_table(write(tmp_path / name, text)).load(COLUMNS)
    assert sentence in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_csv_may_be_parted_by_other_marks(tmp_path: Path, mark: str) -> None:
    rows = [["user", "item", "rating"], ["u", '"a, b"', "3"], ["v", "c", "4"]]
    text = "".join(mark.join(row) + "\n" for row in rows)
    file = write(tmp_path / "a.csv", text)
    assert read_table(file).load(COLUMNS).rows() == [("u", "a, b", 3.0), ("v", "c", 4.0)]
    file = write(tmp_path / "a.csv", text.replace("v", '"v\nw"').replace("4", "x"))
    with pytest.raises(RecsysError, match="a.csv, line 4: rating is 'x'"):
        read_table(file).load(COLUMNS)
    file = write(tmp_path / "a.csv", text + mark.join("abcd"))
    with pytest.raises(RecsysError, match="a.csv, line 4: 4 fields, the header has 3"):
        read_table(file)


def test_another_encoding_than_utf_8_is_said(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("user,item,rating\nü,i,3\n".encode("latin-1"))
    with pytest.raises(RecsysError, match="a.csv is not a readable CSV file.*; save it as UTF-8"):
        read_table(tmp_path / "a.csv")


def test_a_damaged_gzip_is_not_readable(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(CSV.encode() * 1000)[:60])
    with pytest.raises(RecsysError, match="a.csv.gz is not a readable CSV file"):
        read_table(tmp_path / "a.csv.gz")


def test_with_a_report_bad_rows_are_left_out_and_counted_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "user,item,rating\nu,i,nan\n,j,\nu,k,4\nu,l,x\n")
    report = Report()
    kept = read_table(file).load([USER, ITEM, RATING], report=report)
    assert kept.rows() == [("u", "k", 4.0)]
    assert [(f.problem, f.rows, f.action, f.example) for f in report.findings] == [
        ("user is not a user id", 1, "dropped", f"{file}, line 3"),
        ("rating is not a number", 2, "dropped", f"{file}, line 2"),
    ]
    assert report.dropped == 3


def test_optional_columns_and_values_may_be_missing(tmp_path: Path) -> None:
    price = Column("price", "number", required=False, blank=True)
    stock = Column("stock", "number", required=False)
    file = write(tmp_path / "a.csv", ",item,price,size,colour\n0,a, ,1,red\n1,b,2,,blue\n")
    loaded = read_table(file).load([ITEM, price, stock], others=True)
    assert loaded.columns == ["item", "price", "size", "colour"]
    assert loaded.rows() == [("a", None, 1.0, "red"), ("b", 2.0, None, "blue")]
    write(file, "item,price\na,cheap\n")
    with pytest.raises(RecsysError, match="line 2: price is 'cheap'"):
        read_table(file).load([ITEM, price])


def test_rare_keys_of_wide_json_lines_are_gathered(tmp_path: Path) -> None:
    lines = [f'{{"item": "{n}", "spec {n}": {n}, "none {n}": null}}' for n in range(150)]
    frame = read_table(write(tmp_path / "a.jsonl", "\n".join(lines))).frame
    assert set(frame.columns) == {"item", "attributes", "__row"}
    assert frame["attributes"][149] == "spec 149: 149"
