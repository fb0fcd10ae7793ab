"""The loaders of everything but sequences: ratings, impressions, judgments, catalogues, baskets."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.data.baskets import load_baskets, load_sales, purchases
from recsys.data.catalogue import load_catalogue
from recsys.data.impressions import load_impressions
from recsys.data.interactions import load_interactions
from recsys.data.queries import load_judgments
from recsys.data.ratings import load_ratings
from recsys.data.report import Report
from recsys.errors import RecsysError

SHARED = Path(__file__).resolve().parents[3] / "../shared/data"
real_data = pytest.mark.skipif(
    not SHARED.exists(), reason="the real data sets are not beside the project"
)

INVOICES = """InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,A,LAMP,2,2011-01-02 10:00:00,1.5,17,UK
1,B,"CHAIR, RED",1,2011-01-02 10:00:00,9,17,UK
1,A,LAMP,3,2011-01-02 10:00:00,1.5,17,UK
C2,A,LAMP,-1,2011-01-03 10:00:00,1.5,17,UK
3,C,,1,2011-01-01 10:00:00,0,17,UK
4,B,"CHAIR, RED",1,2011-01-01 10:00:00,9,,UK
5,B,"CHAIR, RED",1,2011-01-04 10:00:00,9,17,UK
"""


def test_ratings_of_a_shop(shop_folder: Path) -> None:
    ratings = load_ratings(shop_folder)
    assert ratings.columns == ["user", "item", "rating", "time"]
    assert set(ratings["rating"]) <= {1.0, 2.0, 3.0, 4.0, 5.0}
    assert ratings["time"].min() > 1.7e9


def test_a_rating_that_is_no_number_is_refused_or_counted(tmp_path: Path) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text("user,item,rating\nu,a,4\nu,b,NaN\n")
    with pytest.raises(RecsysError, match="ratings.csv, line 3: rating is 'NaN', it must be a num"):
        load_ratings(file)
    report = Report()
    assert load_ratings(file, report=report).rows() == [("u", "a", 4.0, None)]
    assert report.dropped == 1


def test_judgments_of_a_shop(shop_folder: Path) -> None:
    judgments = load_judgments(shop_folder)
    graded = judgments.by_query()
    assert sum(map(len, graded.values())) == len(judgments.items) == len(judgments.relevance)
    assert list(graded) == list(dict.fromkeys(judgments.queries))
    assert set(judgments.relevance) == {0.0, 1.0, 2.0, 3.0}


def test_judgments_that_contradict_each_other_are_refused_or_the_first_counts(
    tmp_path: Path,
) -> None:
    file = tmp_path / "judgments.csv"
    file.write_text("query,docid,rating\nlamp,1,3\nlamp,1,3\nlamp,2,0\n")
    assert load_judgments(tmp_path).by_query() == {"lamp": {"1": 3.0, "2": 0.0}}
    file.write_text("query,docid,rating\nlamp,1,3\nlamp,1,0\n")
    with pytest.raises(RecsysError, match="item '1' is judged in two ways for the query 'lamp'"):
        load_judgments(file)
    report = Report()
    assert load_judgments(file, report=report).by_query() == {"lamp": {"1": 3.0}}
    assert report.dropped == 1
    file.write_text("query,docid,rating\nlamp,1,-1\n")
    with pytest.raises(RecsysError, match="line 2: relevance is '-1', it must be a grade from 0"):
        load_judgments(file)


def test_a_catalogue_keeps_its_text_and_attributes(shop_folder: Path) -> None:
    items = load_catalogue(shop_folder)
    wanted = ["item", "text", "title", "brand", "category", "price", "stock"]
    assert items.columns == wanted and len(items) == 60
    assert items["item"][0] == "i00000" and items["price"].min() > 0


def test_the_text_is_made_of_the_parts_where_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "products.jsonl"
    file.write_text(
        '{"id": "1", "title": "Lamp", "supplier": "Acme", "price": 995, "genres": "home|light"}\n'
        '{"id": "2", "short_description": "Soft", "attr_b_new": true}\n'
    )
    items = load_catalogue(tmp_path)
    assert items["text"].to_list() == ["Lamp Acme home light", "Soft"]
    assert items["attributes"].to_list() == [["home", "light"], None]
    assert items["price"].to_list() == [995.0, None]
    assert items["attr_b_new"].to_list() == [None, "true"]


def test_an_item_that_is_there_twice_is_refused_or_the_first_counts(tmp_path: Path) -> None:
    file = tmp_path / "items.csv"
    file.write_text("item,text\na,Lamp\na,Chair\nb,\n")
    with pytest.raises(RecsysError, match="items.csv: item 'a' is there more than once"):
        load_catalogue(file)
    report = Report()
    assert load_catalogue(file, report=report).rows() == [("a", "Lamp"), ("b", "")]
    assert report.dropped == 1 and report.findings[0].example == "a"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("2019-11-24 00:00:01+00:00,7,1,2,0.1", "click is '2', it must be 0 or 1"),
        ("2019-11-24 00:00:01+00:00,7,1,0,0", "propensity is '0', it must be a probability in"),
        ("2019-11-24 00:00:01+00:00,7,3e9,0,0.1", "position is '3e9', it must be a whole number"),
        ("2019-11-24 00:00:01+00:00,7,1.5,0,0.1", "position is '1.5', it must be a whole number"),
        ("soon,7,1,0,0.1", "time is 'soon'"),
    ],
)
def test_impressions_are_typed_and_checked(tmp_path: Path, row: str, sentence: str) -> None:
    file = tmp_path / "log.csv"
    header = ",timestamp,item_id,position,click,propensity_score,user_feature_0,affinity"
    good = "2019-11-24 00:00:01+00:00,7,1,1,0.25"
    file.write_text(f"{header}\n0,{good},abc,0.5\n")
    assert load_impressions(file).rows(named=True) == [
        {"time": 1_574_553_601.0, "item": "7", "position": 1, "click": 1, "propensity": 0.25}
        | {"user_feature_0": "abc", "affinity": 0.5}
    ]
    file.write_text(f"{header}\n0,{good},abc,0.5\n1,{row},abc,0.5\n")
    with pytest.raises(RecsysError, match="log.csv, line 3: ") as error:
        load_impressions(file)
    assert sentence in str(error.value)


def test_baskets_and_the_sequences_in_them(tmp_path: Path) -> None:
    (tmp_path / "online_retail.csv").write_text(INVOICES)
    baskets = load_baskets(tmp_path)
    assert len(baskets) == 7
    assert baskets.row(3, named=True) == {
        "basket": "C2", "user": "17", "item": "A", "quantity": -1.0, "price": 1.5,
        "time": 1_294_048_800.0, "text": "LAMP", "Country": "UK",
    }  # fmt: skip
    assert baskets["user"].null_count() == 1
    report = Report()
    assert purchases(baskets, report)["item"].to_list() == ["A", "B", "B"]
    assert [(finding.problem, finding.rows) for finding in report.findings] == [
        ("quantity is not above 0: a return", 1),
        ("price is not above 0: not a sale", 1),
        ("the customer is unknown", 1),
        ("the item is in the same basket again", 1),
    ]
    loaded = load_interactions(tmp_path)
    assert loaded.history("17") == ["A", "B", "B"]
    assert loaded.item_text == ["LAMP", "CHAIR, RED"]


def test_baskets_of_nobody_are_no_sequences(tmp_path: Path) -> None:
    file = tmp_path / "baskets.csv"
    file.write_text("basket,item,quantity,price,time\n1,a,1,2,3\n")
    assert load_baskets(tmp_path).row(0) == ("1", "a", 1.0, 2.0, 3.0)
    with pytest.raises(RecsysError, match="baskets.csv holds no purchase of a known customer"):
        load_interactions(file)


def test_sales_without_baskets(tmp_path: Path) -> None:
    file = tmp_path / "oj.csv"
    file.write_text("sales,price,brand,feat\n8256,3.87,tropicana,0\n")
    assert load_sales(file).rows(named=True) == [
        {"item": "tropicana", "quantity": 8256.0, "price": 3.87, "promoted": 0.0}
    ]
    file.write_text("sales,price,brand,feat\n8256,0,tropicana,0\n")
    with pytest.raises(RecsysError, match="line 2: price is '0', it must be a price above 0"):
        load_sales(file)


@pytest.mark.parametrize(
    ("load", "header"),
    [
        (load_impressions, "time,item,position,click,propensity"),
        (load_judgments, "query,item,relevance"),
        (load_baskets, "basket,item,quantity,price,time"),
        (load_sales, "item,quantity,price"),
    ],
)
def test_a_file_without_rows_is_refused(tmp_path: Path, load, header: str) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n")
    with pytest.raises(RecsysError, match="a.csv holds no "):
        load(tmp_path / "a.csv")


@real_data
def test_real_catalogues_judgments_and_sales() -> None:
    products = load_catalogue(SHARED / "chorus_electronics_search")
    judgments = load_judgments(SHARED / "chorus_electronics_search")
    assert len(products) == 19_406 and (products["text"] != "").all()
    assert (len(judgments.items), len(judgments.by_query())) == (3668, 135)
    assert set(judgments.items) <= set(products["item"])
    assert len(load_catalogue(SHARED / "amazon_beauty_5core")) == 12_101
    sales = load_sales(SHARED / "dominicks_oj")
    assert len(sales) == 28_947 and round(sales["promoted"].mean(), 3) == 0.237


@real_data
@pytest.mark.parametrize(
    ("name", "items", "clicks"),
    [("random_men", 34, 46), ("random_women", 46, 46), ("bts_men", 34, 69), ("bts_women", 46, 46)],
)
def test_real_impressions(name: str, items: int, clicks: int) -> None:
    log = load_impressions(SHARED / f"open_bandit/{name}.csv.gz")
    assert (len(log), log["item"].n_unique(), log["click"].sum()) == (10_000, items, clicks)


@real_data
def test_real_baskets() -> None:
    baskets = load_baskets(SHARED / "uci_online_retail")
    assert (len(baskets), baskets["basket"].n_unique()) == (541_909, 25_900)
    loaded = load_interactions(SHARED / "uci_online_retail")
    assert (len(loaded.users), len(loaded.items)) == (4338, 3665)
    assert loaded.times is not None
