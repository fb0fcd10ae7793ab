from __future__ import annotations

from pathlib import Path

import pytest

from recsys.data.interactions import load_interactions, write_interactions
from recsys.data.prepare import prepare
from recsys.data.report import Report
from recsys.data.statistics import note_oddities, statistics
from recsys.data.survey import survey
from recsys.errors import RecsysError

LOG = """user,item,time,rating
u,b,9,5
u,a,1,4
u,a,1,4
u,a,5,nan
v,a,2,4
w,new,3,2
"""


def findings(report: Report) -> dict[str, tuple[int, str]]:
    return {finding.problem: (finding.rows, finding.action) for finding in report.findings}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "items.csv").write_text("item,text\na,Lamp\nb,\nc,Chair\n")
    return tmp_path / "log.csv"


def test_without_options_it_is_what_training_reads(shop_folder: Path, log: Path) -> None:
    for path in (shop_folder, log):
        prepared = prepare(path)
        assert prepared.interactions.fingerprint() == load_interactions(path).fingerprint()
        assert prepared.statistics.events == prepared.read - prepared.report.dropped


def test_everything_that_is_odd_is_told(log: Path) -> None:
    prepared = prepare(log)
    assert prepared.interactions.history("u") == ["a", "a", "b"]
    assert findings(prepared.report) == {
        "time is before that of the user's event above": (1, "sorted"),
        "the same event at the same time": (1, "dropped"),
        "the user has one event": (2, "kept, no next item to learn or test"),
        "the item has no event": (1, "kept in the vocabulary"),
        "the item has no text": (2, "kept"),
    }


def test_ratings_are_looked_at_only_when_asked_for(log: Path) -> None:
    with pytest.raises(RecsysError, match="log.csv, line 5: rating is 'nan'"):
        prepare(log, min_rating=4)
    prepared = prepare(log, min_rating=4, drop_bad_rows=True)
    assert prepared.statistics.events == 3
    assert findings(prepared.report)["rating is not a number"] == (1, "dropped")
    assert findings(prepared.report)["rating is below 4"] == (1, "dropped")


def test_filters_work_together(log: Path) -> None:
    prepared = prepare(log, first_only=True, known_items_only=True, min_item_events=2)
    assert [prepared.interactions.history(user) for user in ("u", "v")] == [["a"], ["a"]]
    assert prepared.interactions.items == ["a"] and prepared.interactions.item_text == ["Lamp"]
    (log.parent / "items.csv").unlink()
    with pytest.raises(RecsysError, match="no catalogue .* beside .*log.csv"):
        prepare(log, known_items_only=True)


def test_prepared_data_keep_their_times_and_are_not_prepared_again(log: Path) -> None:
    folder = log.parent / "prepared"
    interactions = prepare(log).interactions
    write_interactions(interactions, folder)
    back = load_interactions(folder)
    assert back.times.tolist() == interactions.times.tolist() == [1, 5, 9, 2, 3]
    assert back.select([1, 0]).times.tolist() == [2, 1, 5, 9]
    with pytest.raises(RecsysError, match="is prepared already"):
        prepare(folder)
    write_interactions(interactions.select([]), folder)
    nobody = load_interactions(folder)
    assert nobody.users == [] and nobody.items == interactions.items and not len(nobody.times)


def test_statistics(log: Path) -> None:
    figures = statistics(load_interactions(log))
    assert (figures.users, figures.items, figures.events, figures.unseen_items) == (3, 4, 5, 1)
    assert figures.density == pytest.approx(4 / 12) and figures.repeats == pytest.approx(1 / 5)
    assert figures.events_per_user["50%"] == 1 and figures.events_per_user["100%"] == 3
    assert (figures.first, figures.last) == (1, 9)


def test_users_without_enough_events_are_named() -> None:
    from numpy import array, int32

    from recsys.data.interactions import Interactions

    sparse = Interactions(["a", "b", "c"], ["x"], array([0, 0, 1, 3]), array([0, 0, 0], int32))
    report = Report()
    note_oddities(sparse, report)
    assert [(f.problem, f.example) for f in report.findings] == [
        ("the user has no event", "a"),
        ("the user has one event", "b"),
        ("the user has two events", "c"),
    ]


def test_a_survey_tells_what_each_file_is_and_counts_bad_rows(log: Path) -> None:
    folder = log.parent
    write_interactions(load_interactions(log), folder / "prepared")
    tables = {
        "judged.csv": ("judgments", "query,item,relevance\nlamp,a,3\n"),
        "shown.csv": ("impressions", "time,item,position,click,propensity\n1,a,1,0,0.5\n"),
        "bought.csv": ("baskets", "basket,user,item,quantity,price,time\n1,u,a,2,3,1\n"),
        "sold.csv": ("sales", "brand,quantity,price\nx,3,1\n"),
        "users.csv": ("unknown", "user,age\nu,3\n"),
        "plain.txt": ("events", "u a b\n"),
    }
    for name, (_, text) in tables.items():
        (folder / name).write_text(text)
    found = {Path(one.path).name: one for one in survey(folder)}
    expected = {name: kind for name, (kind, _) in tables.items()}
    expected |= {"log.csv": "events", "items.csv": "catalogue"}
    assert {name: one.kind for name, one in found.items()} == expected
    assert findings(found["log.csv"].report)["rating is not a number"] == (1, "dropped")
    assert found["judged.csv"].figures["relevance"] == {"3": 1}
    assert survey(folder / "prepared")[0].figures["events"] == 5
    (folder / "empty").mkdir()
    with pytest.raises(RecsysError, match="empty holds no data"):
        survey(folder / "empty")
