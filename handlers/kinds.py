"""The kinds of models that can be served: how to tell one, open it, and speak to it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, TypeAdapter

from handlers import requests
from handlers.errors import ArchiveError
from handlers.stopwatch import Stopwatch


class Answerer(Protocol):
    """A loaded model."""

    def answer(
        self, requests: list[Any], watch: Stopwatch
    ) -> list[dict[str, Any] | Exception]:
        """The answer to each request, or the error of one that cannot be answered.

        Raises
        ------
        Exception
            The model fails; no request of the batch is answered.
        """

    def example(self) -> Any:
        """A request that the model answers, as costly as common ones."""


@dataclass(frozen=True)
class Kind:
    """A kind of model.

    Attributes
    ----------
    name
        Of its endpoint, ``/predictions/<name>``.
    files
        Of an artefact of this kind; the first is in no other's.
    request
        What is parsed.
    response
        What a good answer conforms to, by default.
    answerer
        Module and class that opens an artefact's folder; the module is loaded only when needed.
    others
        What good answers to other requests of this kind conform to.
    """

    name: str
    files: tuple[str, ...]
    request: TypeAdapter
    response: type[BaseModel]
    answerer: str
    others: tuple[type[BaseModel], ...] = ()

    @property
    def open(self) -> Callable[[Path], Answerer]:
        """Opens an artefact's folder; RecsysError where that is not usable."""
        module, _, name = self.answerer.rpartition(".")
        return getattr(import_module(module), name)


RECOMMEND = Kind(
    "recommend",
    ("recipe.json", "weights.safetensors", "items.json", "metrics.json"),
    requests.ItemsRequest,
    requests.FoundItems,
    "handlers.fresh.FreshRecommender",
    (requests.StoredEvents,),
)
KINDS = (
    RECOMMEND,
    Kind("search", ("search.json", "weights.safetensors"), TypeAdapter(requests.SearchRequest),
         requests.FoundItems, "handlers.search.Search"),
    Kind("rating", ("rating.json", "weights.safetensors"), TypeAdapter(requests.RatingRequest),
         requests.Ratings, "handlers.rating.Rating"),
    Kind("click", ("click.json", "weights.safetensors"), TypeAdapter(requests.ClickRequest),
         requests.Clicks, "handlers.click.Click"),
)  # fmt: skip


def kind_in(folder: Path) -> Kind:
    """The kind of an artefact.

    Raises
    ------
    ArchiveError
        The folder holds no artefact of a known kind, or not all of it.
    """
    names = {file.name for file in folder.iterdir() if file.is_file()} if folder.is_dir() else set()
    return kind_of(names, str(folder))


def kind_of(names: Collection[str], place: str) -> Kind:
    """The kind of an artefact with files of these names, which lie in `place`.

    Raises
    ------
    ArchiveError
        They are not all that an artefact of a known kind has.
    """
    kind = next((kind for kind in KINDS if kind.files[0] in names), RECOMMEND)
    for name in kind.files:
        if name not in names:
            raise ArchiveError(f"{place} holds no model: {name} is missing.")
    return kind
