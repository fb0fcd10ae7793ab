"""The test of a version before service, of answers that the handlers gave in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cli.errors import ServingError
from cli.serving_client import ServingClient
from cli.smoke import smoke_test
from handlers.archive import build_archive
from handlers.kinds import KINDS, kind_in
from handlers.parsing import parse
from handlers.stopwatch import Stopwatch
from tests.handlers.small_models import small_models, small_recommender

DIGEST = "sha256:" + "a" * 64
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    models = {"recommend": small_recommender(folder / "recommend")} | small_models(folder)
    return {kind.name: models[kind.name] for kind in KINDS}


class Answering(ServingClient):
    """Asks the handler of a model's folder, and changes what it answers."""

    def __init__(self, folder: Path, change: Change) -> None:
        self.model_kind = kind_in(folder)
        super().__init__("http://127.0.0.1", "http://127.0.0.1", self.model_kind.name)
        self.model, self.change = self.model_kind.open(folder), change

    def predict(self, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        request = parse(self.model_kind.request, json.dumps(body).encode())
        (answer,) = self.model.answer([request], Stopwatch())
        if isinstance(answer, Exception):
            raise ServingError(str(answer))
        return self.change(answer | {"model": DIGEST})


def problem(folder: Path, scratch: Path, change: Change = lambda answer: answer) -> str | None:
    archive = build_archive(folder, DIGEST, scratch / "model.mar")
    return smoke_test(Answering(folder, change), DIGEST, archive)


@pytest.mark.parametrize("kind", [kind.name for kind in KINDS])
def test_a_sound_model_of_any_kind_passes(
    folders: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    assert problem(folders[kind], tmp_path) is None


def refused(answer: dict) -> dict:
    raise ServingError("TorchServe refuses to recommend (HTTP 500): no reason given")


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("recommend", refused, "(HTTP 500): no reason given"),
        ("rating", lambda a: a | {"model": "sha256:b"}, "it calls itself sha256:b"),
        ("recommend", lambda a: a | {"items": a["items"][1:]}, "9 different items instead of 10"),
        ("recommend", lambda a: a | {"items": a["items"][::-1]}, "not in order"),
        (
            "recommend",
            lambda a: a | {"items": [a["items"][0] | {"item": "item-0"}, *a["items"][1:]]},
            "seen already",
        ),
        ("search", lambda a: a | {"items": []}, "0 different items instead of 1 to 10"),
        ("search", lambda a: a | {"items": [{"item": "x", "score": 1.0}]}, "should not know"),
        ("rating", lambda a: a | {"ratings": a["ratings"][1:]}, "other items than it was asked"),
        (
            "click",
            lambda a: a | {"clicks": [row | {"probability": float("nan")} for row in a["clicks"]]},
            "a probability is not finite",
        ),
    ],
)
def test_what_is_wrong_with_an_answer_is_said(
    folders: dict[str, Path], kind: str, change: Change, sentence: str, tmp_path: Path
) -> None:
    assert sentence in problem(folders[kind], tmp_path, change)
