"""A made-up shop, the same for the same seed: something to learn from where no real data is.

What there is to learn: items come in categories, each item leads to a few others (a camera to
its memory card), users favour a few categories, and a few items sell much more than the rest. A
model that reads the order of events can therefore do far better than the list of best sellers.

Files: ``users.csv`` (user, segment, since) · ``items.csv`` (item, title, category, brand, price,
stock, text) · ``events.csv`` (user, item, event, time) · ``ratings.csv`` (user, item, rating,
time) · ``queries.csv`` (query, item, relevance 0 to 3). Times are seconds since 1970.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from recsys.errors import RecsysError
from recsys.files import write_atomically

CATEGORIES = {
    "camera": ["mirrorless camera", "zoom lens", "tripod", "memory card", "camera bag"],
    "audio": ["headphones", "speaker", "turntable", "microphone", "audio cable"],
    "kitchen": ["chef knife", "frying pan", "espresso machine", "mixing bowl", "kettle"],
    "garden": ["watering can", "pruning shears", "plant pot", "garden hose", "seed set"],
    "running": ["running shoes", "rain jacket", "sports watch", "water bottle", "headband"],
    "cycling": ["bicycle helmet", "bike light", "saddle", "repair kit", "cycling gloves"],
    "office": ["desk lamp", "office chair", "notebook", "fountain pen", "monitor stand"],
    "toys": ["building blocks", "board game", "puzzle", "toy train", "plush bear"],
    "beauty": ["face cream", "shampoo", "lipstick", "nail polish", "hair brush"],
    "home": ["cushion", "wool blanket", "candle", "picture frame", "laundry basket"],
}
BRANDS = ["Alder", "Borealis", "Cinder", "Dovetail", "Ember", "Fjord", "Gable", "Harbour"]
QUALITIES = ["compact", "classic", "light", "sturdy", "quiet", "travel", "premium", "everyday"]
COLOURS = ["black", "white", "blue", "green", "red", "sand"]

FIRST_DAY = 1_735_689_600  # 2025-01-01
DAYS = 180
SUCCESSORS = 5


def write_shop(folder: Path, *, users: int = 2000, items: int = 600, seed: int = 0) -> None:
    """Generate the shop's files into `folder`.

    Raises
    ------
    RecsysError
        When there are fewer than 10 users or 50 items.
    """
    if users < 10 or items < 50:
        raise RecsysError(f"a shop of {users} users and {items} items: take at least 10 and 50")
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    catalogue = _catalogue(items, random)
    category = np.arange(items) % len(CATEGORIES)
    shopping = _shopping(users, category, random)
    tables = {
        "users": _users(users, random),
        "items": catalogue,
        "events": shopping,
        "ratings": _ratings(shopping, items, random),
        "queries": _queries(catalogue, random),
    }
    for name, table in tables.items():
        write_atomically(folder / f"{name}.csv", table.write_csv)


def _users(users: int, random: np.random.Generator) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user": [f"u{user:05d}" for user in range(users)],
            "segment": random.choice(["new", "regular", "loyal"], users, p=[0.3, 0.5, 0.2]),
            "since": FIRST_DAY - random.integers(0, 700 * 86_400, users),
        }
    )


def _catalogue(items: int, random: np.random.Generator) -> pl.DataFrame:
    categories = list(CATEGORIES)
    rows = []
    for item in range(items):
        category = categories[item % len(categories)]
        product = CATEGORIES[category][item // len(categories) % 5]
        brand, quality, colour = map(random.choice, (BRANDS, QUALITIES, COLOURS))
        title = f"{brand} {quality} {product}, {colour}"
        rows.append(
            {
                "item": f"i{item:05d}",
                "title": title,
                "category": category,
                "brand": str(brand),
                "price": round(float(random.lognormal(3.2, 0.8)), 2),
                "stock": int(random.poisson(40)),
                "text": f"{title}. {category}: a {quality} {product} by {brand} in {colour}.",
            }
        )
    return pl.DataFrame(rows)


def _shopping(users: int, category: np.ndarray, random: np.random.Generator) -> pl.DataFrame:
    """Each user's walk through the shop: on to a related item, or back to a favourite category."""
    items = len(category)
    popular = 1 / (random.permutation(items) + 10.0)
    members = [np.flatnonzero(category == c) for c in range(len(CATEGORIES))]
    chances = [popular[m] / popular[m].sum() for m in members]
    successors = np.stack(
        [
            random.choice(members[c], SUCCESSORS, replace=len(members[c]) < SUCCESSORS)
            for c in np.where(random.random(items) < 0.8, category, (category + 1) % len(members))
        ]
    )
    preference = np.array([0.5, 0.25, 0.12, 0.08, 0.05])
    user_column, item_column, event_column, time_column = [], [], [], []
    for user in range(users):
        favourites = random.choice(len(members), 2, replace=False)
        visits = 6 + int(random.poisson(8))
        times = np.sort(random.integers(0, DAYS * 86_400, visits)) + FIRST_DAY
        current, seen = -1, set()
        for time in times.tolist():
            if current >= 0 and random.random() < 0.7:
                candidate = int(random.choice(successors[current], p=preference))
            else:
                theme = random.choice(favourites) if random.random() < 0.8 else random.integers(10)
                candidate = int(random.choice(members[theme], p=chances[theme]))
            if candidate in seen:
                candidate = int(random.choice(members[category[candidate]]))
            current = candidate
            seen.add(candidate)
            depth = random.random()
            for event, reached, delay in (
                ("view", 1.0, 0),
                ("cart", 0.4, 60),
                ("purchase", 0.2, 300),
            ):
                if depth < reached:
                    user_column.append(f"u{user:05d}")
                    item_column.append(f"i{candidate:05d}")
                    event_column.append(event)
                    time_column.append(time + delay)
    return pl.DataFrame(
        {"user": user_column, "item": item_column, "event": event_column, "time": time_column}
    ).sort("time", maintain_order=True)


def _ratings(shopping: pl.DataFrame, items: int, random: np.random.Generator) -> pl.DataFrame:
    """Some buyers rate, around a quality that belongs to the item."""
    bought = shopping.filter(pl.col("event") == "purchase")
    rated = bought.filter(pl.Series(random.random(len(bought)) < 0.5))
    quality = random.normal(3.8, 0.6, items)
    index = rated["item"].str.slice(1).cast(pl.Int64).to_numpy()
    stars = np.clip(np.rint(quality[index] + random.normal(0, 0.7, len(index))), 1, 5)
    return rated.select(
        "user", "item", pl.Series("rating", stars.astype(int)), pl.col("time") + 7 * 86_400
    )


def _queries(catalogue: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    """What people type, judged: 3 all words fit, 2 the product, 1 only the category, 0 neither."""
    rows = []
    for item in random.choice(len(catalogue), min(100, len(catalogue)), replace=False).tolist():
        wanted = catalogue.row(item, named=True)
        product = CATEGORIES[wanted["category"]][item // len(CATEGORIES) % 5]
        query = f"{wanted['brand']} {product}" if random.random() < 0.5 else product
        for candidate in random.choice(len(catalogue), 20, replace=False).tolist() + [item]:
            shown = catalogue.row(candidate, named=True)
            fits = product in shown["title"]
            whole = all(word.lower() in shown["title"].lower() for word in query.split())
            relevance = 3 if whole else 2 if fits else int(shown["category"] == wanted["category"])
            rows.append({"query": query, "item": shown["item"], "relevance": relevance})
    return pl.DataFrame(rows).unique(["query", "item"], keep="first", maintain_order=True)
