from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.interactions import Interactions, load_interactions, write_interactions
from recsys.errors import RecsysError

SHARED = Path(__file__).resolve().parents[3] / "../shared/data"


def histories(interactions: Interactions) -> dict[str, list[str]]:
    return {user: interactions.history(user) for user in interactions.users}


def test_a_line_a_user(tmp_path: Path) -> None:
    (tmp_path / "shop.txt").write_text("1 7 5 10\n2 5\n")
    loaded = load_interactions(tmp_path / "shop.txt")
    assert histories(loaded) == {"1": ["7", "5", "10"], "2": ["5"]}
    assert loaded.items == ["5", "7", "10"]
    assert loaded.item_text is None


def test_a_line_an_event_keeps_the_order_of_interleaved_users(tmp_path: Path) -> None:
    (tmp_path / "shop.txt").write_text("2 a\n1 b\n2 c\n\n1 a\n")
    assert histories(load_interactions(tmp_path)) == {"1": ["b", "a"], "2": ["a", "c"]}


def test_item_texts_beside_the_file_extend_the_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "shop.txt").write_text("1 2 3\n")
    (tmp_path / "items.tsv").write_text(
        "item_id\tasin\tbrand_and_categories\n1\tB1\tOPI|Nails\n2\tB2\tAcme|Hair\n"
    )
    loaded = load_interactions(tmp_path)
    assert loaded.items == ["1", "2", "3"]
    assert loaded.item_text == ["OPI Nails", "Acme Hair", ""]


def test_csv_is_sorted_by_time_and_keeps_ids_as_written(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("item,user,time\nb,007,20\na,007,3\nc,007,20\n")
    assert histories(load_interactions(tmp_path)) == {"007": ["a", "b", "c"]}


def test_csv_takes_dates(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user,item,time\nu,b,2025-02-01T10:00:00\nu,a,2025-01-31T23:00:00\n"
    )
    assert histories(load_interactions(tmp_path)) == {"u": ["a", "b"]}


def test_parquet_without_time_is_in_order(tmp_path: Path) -> None:
    pl.DataFrame({"user": [1, 1, 2], "item": [9, 8, 9]}).write_parquet(tmp_path / "log.parquet")
    assert histories(load_interactions(tmp_path)) == {"1": ["9", "8"], "2": ["9"]}


def test_view_cart_and_purchase_are_one_engagement(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(
        "user,item,event,time\nu,a,view,1\nu,b,view,2\nu,a,cart,3\nu,b,purchase,4\n"
    )
    assert histories(load_interactions(tmp_path)) == {"u": ["a", "b"]}


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("log.csv", "user,item\nu,a\nu,\n", "log.csv, line 3: item is None"),
        ("log.csv", "user,item\n ,a\n", "log.csv, line 2: user is ' '"),
        ("log.csv", "user,item,time\nu,a,5\nu,b,soon\n", "log.csv, line 3: time is 'soon'"),
        ("log.csv", "user,item,time\nu,a,nan\n", "log.csv, line 2: time is 'nan'"),
        ("log.csv", "user,item\nu,a\nu,b,c\n", "log.csv, line 3: 3 fields, the header has 2"),
        ("log.csv", "user,product\nu,a\n", "no column 'item', nor item_id, product_id, movie"),
        ("log.csv", "", "log.csv is empty"),
        ("log.csv", "user,item\n", "holds no interactions"),
        ("log.txt", "1 2 3\n4\n", "log.txt, line 2: '4' has a user but no item"),
        ("u.txt", "1\t5\t3\t881250949\n2\t6\t1\t881250950\n", "u.txt has 4 fields a line"),
        ("log.csv", "user,item,eventDate\n1,2,3\n", "no column 'time', but 'eventDate' looks"),
        ("log.parquet", "not parquet", "log.parquet is not a readable Parquet file"),
    ],
)
def test_a_bad_file_is_named_with_the_line(
    tmp_path: Path, name: str, content: str, sentence: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecsysError) as error:
        load_interactions(tmp_path)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_parquet_row_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"user": ["u", None], "item": ["a", "b"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(RecsysError, match="a.parquet, row 2: user is None"):
        load_interactions(tmp_path)


def test_missing_and_ambiguous_paths_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(RecsysError, match="no data at .*absent"):
        load_interactions(tmp_path / "absent")
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("1 2\n")
    with pytest.raises(RecsysError, match="found a.txt, b.txt; give the path of the file"):
        load_interactions(tmp_path)


def test_a_written_folder_reads_back_the_same(tmp_path: Path, shop: Interactions) -> None:
    part = shop.select([5, 2])
    write_interactions(part, tmp_path)
    back = load_interactions(tmp_path)
    assert back.users == [shop.users[5], shop.users[2]]
    assert back.items == shop.items
    assert back.item_text == shop.item_text
    assert histories(back) == histories(part)
    assert back.fingerprint() == part.fingerprint()


def test_a_user_without_events_survives_the_round_trip(tmp_path: Path) -> None:
    sparse = Interactions(["a", "b", "c"], ["x"], np.array([0, 0, 1, 1]), np.array([0], np.int32))
    write_interactions(sparse, tmp_path)
    back = load_interactions(tmp_path)
    assert histories(back) == {"a": [], "b": ["x"], "c": []}
    assert back.fingerprint() == sparse.fingerprint()


def test_a_written_folder_that_was_damaged_is_refused(tmp_path: Path, shop: Interactions) -> None:
    write_interactions(shop, tmp_path)
    pl.DataFrame({"item": ["only"]}).write_parquet(tmp_path / "items.parquet")
    with pytest.raises(RecsysError, match="items.parquet holds 1 items"):
        load_interactions(tmp_path)
    (tmp_path / "sequences.parquet").write_bytes(b"PAR1")
    with pytest.raises(RecsysError, match="not a readable folder of interactions"):
        load_interactions(tmp_path)


@pytest.mark.parametrize(
    ("sequences", "sentence"),
    [
        ({"user": ["a"], "items": [[0.5, 1.0]]}, "'items' is of type List.Float64."),
        ({"user": [1], "items": [[0, 1]]}, "'user' is of type Int64, it must be String"),
        ({"user": ["a", "b"], "items": [None, [0, 1]]}, "'items' has missing values"),
        ({"user": ["a", "b"], "items": [[0], [0, None]]}, "'items' has missing values"),
        ({"user": ["a", "a"], "items": [[0], [1]]}, "'user' names an id twice"),
    ],
)
def test_a_folder_that_was_written_by_something_else_is_refused(
    tmp_path: Path, sequences: dict, sentence: str
) -> None:
    pl.DataFrame({"item": ["x", "y"]}).write_parquet(tmp_path / "items.parquet")
    written = pl.DataFrame(sequences)
    if written.schema["items"] == pl.List(pl.Int64):
        written = written.cast({"items": pl.List(pl.Int32)})
    written.write_parquet(tmp_path / "sequences.parquet")
    with pytest.raises(RecsysError, match=f"sequences.parquet: column {sentence}"):
        load_interactions(tmp_path)


def test_the_fingerprint_tells_order_apart(shop: Interactions) -> None:
    turned = Interactions(
        shop.users, shop.items, shop.offsets, shop.sequence[::-1].copy(), shop.item_text
    )
    assert turned.fingerprint() != shop.fingerprint()


def test_an_unknown_user_is_named(shop: Interactions) -> None:
    with pytest.raises(RecsysError, match="unknown user 'nobody'.*a known one is 'u00000'"):
        shop.history("nobody")


@pytest.mark.skipif(not SHARED.exists(), reason="the real data sets are not beside the project")
@pytest.mark.parametrize(
    ("name", "users", "items", "events"),
    [("amazon_beauty_5core", 22363, 12101, 198502), ("amazon_video_games", 31013, 23715, 287107)],
)
def test_real_data(name: str, users: int, items: int, events: int) -> None:
    loaded = load_interactions(SHARED / name)
    assert (len(loaded.users), len(loaded.items), len(loaded.sequence)) == (users, items, events)
