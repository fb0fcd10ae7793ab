"""What clients ask for and what they get: the classes that parse and that the OpenAPI shows."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, TypeAdapter

from handlers.parsing import Strict

MOST_ITEMS = 1000
MOST_EVENTS = 100


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 1.0 is a whole one too."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


ItemId = Annotated[str, Field(description="an item id in quotes")]
UserId = Annotated[
    str,
    Field(min_length=1, max_length=200, description="a user id in quotes, of up to 200 letters"),
]
Count = Annotated[
    int,
    Field(ge=1, le=MOST_ITEMS, description=f"a whole number from 1 to {MOST_ITEMS}: how many"),
    BeforeValidator(_whole),
]
Items = Annotated[
    tuple[ItemId, ...],
    Field(min_length=1, max_length=MOST_ITEMS, description=f"a list of 1 to {MOST_ITEMS} item ids"),
]
Coordinate = Annotated[
    float, Field(ge=-1e6, le=1e6, description="a number from -1000000 to 1000000")
]
Price = Annotated[float, Field(ge=0, description="a number from 0 on: in the catalogue's currency")]
Category = Annotated[str, Field(description="a category in quotes")]
Value = Annotated[
    str | Annotated[int, BeforeValidator(_whole)] | bool,
    Field(description="text, a whole number, true or false"),
]


class Where(Strict):
    """Which items may be in an answer, by what the catalogue said when the model was trained.

    An item of which something is not known does not pass a filter on it.
    """

    in_stock: bool = Field(False, description="true or false: only what is in stock")
    categories: tuple[Category, ...] = Field(
        (), max_length=100, description="a list of up to 100 categories: items of these only"
    )
    min_price: Price | None = None
    max_price: Price | None = None

    def __bool__(self) -> bool:
        """Whether some item may be kept out: asked of each request, so without a model to compare."""
        prices = self.min_price is not None or self.max_price is not None
        return self.in_stock or bool(self.categories) or prices


class RecommendRequest(Strict):
    """Ask for items to a history, and to what the user did since."""

    history: tuple[ItemId, ...] = Field(
        (),
        description="a list of item ids: the oldest first; it may be empty, and ids that the model "
        "does not know are passed over",
    )
    user: UserId | None = Field(
        None,
        description="a user id in quotes, of up to 200 letters: the events posted for this user "
        "are appended to the history, but for those that it ends with",
    )
    k: Count = 10
    exclude_seen: bool = Field(
        True, description="true or false: whether the items of the history are left out"
    )
    where: Where = Field(Where(), description="an object with filters")
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="a number from 0 to 1: weight of being unlike the items before against the "
        "score (maximal marginal relevance)",
    )
    explain: bool = Field(
        False, description="true or false: whether each item comes with the events that caused it"
    )


class Event(Strict):
    """Something that a user did with an item."""

    item: ItemId
    time: float | None = Field(
        None,
        ge=0,
        description="a number from 0 on: seconds since 1970, by default the present; events may "
        "come in any order",
    )
    id: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="an event id in quotes, of up to 100 letters: of events of one user with the "
        "same id one is kept",
    )


class EventsRequest(Strict):
    """Tell what a user did, for the next answers to that user."""

    user: UserId
    events: tuple[Event, ...] = Field(
        min_length=1, max_length=MOST_EVENTS, description=f"a list of 1 to {MOST_EVENTS} events"
    )
    residency: str | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="a site's name in quotes: the events are private to it; by default to the site "
        "at which the service stands, if it stands at one",
    )

    def sent_as(self, request: str) -> EventsRequest:
        """The same with an id for each event that has none, so that it may come twice."""
        events = tuple(
            event if event.id else event.model_copy(update={"id": f"{request}-{place}"})
            for place, event in enumerate(self.events)
        )
        return self.model_copy(update={"events": events})


class VectorRequest(Strict):
    """Ask for items to what a model made of a history, which stays where it is."""

    vector: tuple[Coordinate, ...] = Field(
        min_length=1,
        max_length=4096,
        description="a list of numbers: as many as the model's vectors have",
    )
    model: str = Field(
        pattern="^sha256:[0-9a-f]{64}$",
        description="a model's digest in quotes: of the one that made the vector",
    )
    k: Count = 10
    where: Where = Field(Where(), description="an object with filters")


class SimilarRequest(Strict):
    """Ask for items like one."""

    item: ItemId
    k: Count = 10
    where: Where = Field(Where(), description="an object with filters")


class SearchRequest(Strict):
    """Ask for items to words."""

    query: str = Field(max_length=1000, description="text of up to 1000 letters")
    k: Count = 10


class RatingRequest(Strict):
    """Ask how a user would rate items; a user or item unknown to the model is rated as any."""

    user: str = Field(description="a user id in quotes")
    items: Items


class ClickRequest(Strict):
    """Ask for the probability that what is shown is clicked."""

    items: Items
    context: dict[str, Value] = Field(
        default_factory=dict,
        description="an object of features: of the user and the page, by the names of the log that "
        "the model was trained on; a value that it did not have counts as none",
    )
    position: Value | None = Field(
        None, description="text or a whole number: where all are shown, by default the first place"
    )


def _asks_for(body: Any) -> str:
    fields = body if isinstance(body, dict) else {}
    if "events" in fields:
        return EventsRequest.__name__
    if "vector" in fields:
        return VectorRequest.__name__
    return (
        SimilarRequest if "item" in fields and "history" not in fields else RecommendRequest
    ).__name__


ItemsRequest = TypeAdapter(
    Annotated[
        Annotated[RecommendRequest, Tag("RecommendRequest")]
        | Annotated[SimilarRequest, Tag("SimilarRequest")]
        | Annotated[EventsRequest, Tag("EventsRequest")]
        | Annotated[VectorRequest, Tag("VectorRequest")],
        Discriminator(_asks_for),
    ]
)


class Cause(BaseModel):
    """A past item, and by how much the score is lower for a user who never had it."""

    item: str
    score_drop: float


class FoundItem(BaseModel):
    """An item; `because` is there where explanations were asked for, the largest cause first."""

    item: str
    score: float
    because: list[Cause] = Field(default_factory=list)


class FoundItems(BaseModel):
    """Items, the best first, and the digest of the model that found them.

    Where a user was named, `fresh_events` tells how many events were appended to the history;
    `warning` tells why none could be.
    """

    items: list[FoundItem]
    fresh_events: int | None = None
    warning: str | None = None
    model: str = Field(pattern="^sha256:[0-9a-f]{64}$")


class StoredEvents(BaseModel):
    """How many events were stored; one that had been already counts too."""

    stored: int
    model: str = Field(pattern="^sha256:[0-9a-f]{64}$")


class ItemRating(BaseModel):
    """Stars, or for a model of likes the probability of one."""

    item: str
    rating: float


class Ratings(BaseModel):
    """One for each item asked for, in that order."""

    ratings: list[ItemRating]
    model: str = Field(pattern="^sha256:[0-9a-f]{64}$")


class ItemClick(BaseModel):
    """How likely an item is clicked where it is shown."""

    item: str
    probability: float = Field(ge=0, le=1)


class Clicks(BaseModel):
    """One for each item asked for, in that order."""

    clicks: list[ItemClick]
    model: str = Field(pattern="^sha256:[0-9a-f]{64}$")


class Problem(BaseModel):
    """What is wrong with a request, in one sentence."""

    error: str
