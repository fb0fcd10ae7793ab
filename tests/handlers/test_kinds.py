"""Models of every kind, each as the service meets it: an artefact in, answers out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from handlers.errors import ArchiveError, BadRequest, Refused
from handlers.kinds import KINDS, kind_in
from handlers.openapi import openapi_document
from handlers.parsing import parse
from handlers.requests import ClickRequest, RatingRequest, SearchRequest
from handlers.stopwatch import Stopwatch
from recsys.click import load_click
from recsys.rating import load_rating

NAMES = [kind.name for kind in KINDS]
# Notes each class that a pickle asks for; the last line proves that it would.
WATCHED = """
import pickle, sys
from pathlib import Path
from handlers.kinds import kind_in
from handlers.stopwatch import Stopwatch

found = []
sys.addaudithook(lambda event, details: event == "pickle.find_class" and found.append(details))
for folder in map(Path, sys.argv[1:]):
    model = kind_in(folder).open(folder)
    (answer,) = model.answer([model.example()], Stopwatch())
    print(type(answer).__name__, found)
pickle.loads(pickle.dumps(Path()))
print(len(found))
"""


@pytest.mark.parametrize("name", NAMES)
def test_an_artefact_tells_its_kind_and_answers_its_example(
    artifacts: dict[str, Path], name: str
) -> None:
    kind = kind_in(artifacts[name])
    assert kind.name == name
    model = kind.open(artifacts[name])
    watch = Stopwatch()
    first, second = model.answer([model.example()] * 2, watch)
    assert first == second
    kind.response.model_validate(first | {"model": "sha256:" + "a" * 64}, strict=True)
    assert watch.milliseconds


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_asked_as_described_is_answered_as_described(
    artifacts: dict[str, Path], name: str
) -> None:
    kind = kind_in(artifacts[name])
    model = kind.open(artifacts[name])
    schema = schemathesis.openapi.from_dict(openapi_document())

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=schema[f"/predictions/{name}"]["POST"].as_strategy())
    def conforms(case: schemathesis.Case) -> None:
        request = parse(kind.request, json.dumps(case.body).encode())
        (answer,) = model.answer([request], Stopwatch())
        if isinstance(answer, Exception):
            assert isinstance(answer, Refused) and str(answer).endswith(".")
        else:
            whole = answer | {"model": "sha256:" + "a" * 64}
            kind.response.model_validate_json(json.dumps(whole, allow_nan=False), strict=True)

    conforms()


def test_a_folder_that_is_no_whole_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "click.json").write_text("{}")
    with pytest.raises(ArchiveError, match="holds no model: weights.safetensors is missing"):
        kind_in(tmp_path)


def test_ratings_are_the_models_each_request_its_own(artifacts: dict[str, Path]) -> None:
    model = load_rating(artifacts["rating"])
    served = kind_in(artifacts["rating"]).open(artifacts["rating"])
    requests = [
        RatingRequest(user="u1", items=("i0", "i3")),
        RatingRequest(user="nobody", items=("i1",)),
    ]
    first, second = served.answer(requests, Stopwatch())
    assert [row["item"] for row in first["ratings"]] == ["i0", "i3"]
    ratings = [row["rating"] for row in [*first["ratings"], *second["ratings"]]]
    expected = model.predict(["u1", "u1", "nobody"], ["i0", "i3", "i1"])
    assert ratings == pytest.approx(expected.tolist())
    assert ratings[0] != ratings[1]


def test_clicks_are_told_in_one_place_by_the_features_that_the_model_has(
    artifacts: dict[str, Path],
) -> None:
    model = load_click(artifacts["click"])
    served = kind_in(artifacts["click"]).open(artifacts["click"])
    requests = [
        ClickRequest(items=("i0", "i1"), context={"mobile": True}, position=2),
        ClickRequest(items=("i0",), context={"colour": "red"}),
        ClickRequest(items=("i1",)),
    ]
    first, refused, last = served.answer(requests, Stopwatch())
    assert isinstance(refused, BadRequest)
    assert str(refused) == "Unknown feature 'colour': the model's are mobile."
    log = {"item": ["i0", "i1", "i1"], "position": ["2", "2", "1"], "mobile": ["true"] * 2 + [None]}
    expected = model.predict(pl.DataFrame(log)).tolist()
    got = [row["probability"] for row in [*first["clicks"], *last["clicks"]]]
    assert got == pytest.approx(expected)
    assert len(set(got)) == 3


def test_search_finds_words_and_refuses_none(artifacts: dict[str, Path]) -> None:
    served = kind_in(artifacts["search"]).open(artifacts["search"])
    found, refused = served.answer(
        [SearchRequest(query="blue kettle", k=2), SearchRequest(query="!?")], Stopwatch()
    )
    assert [row["item"] for row in found["items"]][0] == "i1"
    assert len(found["items"]) == 2
    assert isinstance(refused, BadRequest)


def test_no_model_unpickles_anything_since_a_pickle_runs_what_its_author_wrote(
    artifacts: dict[str, Path],
) -> None:
    command = [sys.executable, "-c", WATCHED, *map(str, artifacts.values())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.splitlines() == [*["dict []"] * len(artifacts), "1"], done.stderr
