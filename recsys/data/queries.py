"""Search queries with graded judgments: how relevant an item is for a query, as people saw it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.data.columns import ITEM
from recsys.data.report import Report
from recsys.data.source import local_copy
from recsys.data.tables import Column, data_file, read_table
from recsys.errors import RecsysError

QUERY = Column("query", "id", ("search_query", "search_term"), wanted="a query's text")
RELEVANCE = Column(
    "relevance", "number", ("rating", "final_rating", "grade", "judgment", "label"),
    allowed=lambda value: value >= 0, wanted="a grade from 0",
)  # fmt: skip


@dataclass(frozen=True)
class Judgments:
    """One judgment a (query, item) pair: three arrays of equal length, in the file's order.

    Attributes
    ----------
    queries, items
        Text of the query and id of the item, judgment by judgment; no pair is there twice.
    relevance
        float64[judgments], 0 for irrelevant; chorus and the synthetic shop go up to 3.
    """

    queries: list[str]
    items: list[str]
    relevance: np.ndarray

    def by_query(self) -> dict[str, dict[str, float]]:
        """For each query, in order of appearance, the relevance of its judged items."""
        judged: dict[str, dict[str, float]] = {}
        for query, item, grade in zip(
            self.queries, self.items, self.relevance.tolist(), strict=True
        ):
            judged.setdefault(query, {})[item] = grade
        return judged


def load_judgments(
    path: Path | str, *, endpoint: str | None = None, report: Report | None = None
) -> Judgments:
    """Read judged queries.

    Parameters
    ----------
    path
        A table (see `recsys.data.tables`) with the columns query, item and relevance, or a folder
        with ``queries.csv``, ``judgments.csv`` or ``ratings.csv``; also s3:// and gs://.
    endpoint
        See `recsys.data.source.local_copy`.
    report
        Bad rows, and repeated pairs after the first, are left out and counted here; without it the
        first bad row, and a pair that is judged in two different ways, is an error.

    Raises
    ------
    RecsysError
        When nothing readable is there, or no judgment; a bad row is named by file and line.
    """
    with local_copy(path, endpoint=endpoint) as local:
        stems = ("queries", "judgments", "ratings")
        file = data_file(local, stems, what="judged queries")
        frame = read_table(file).load([QUERY, ITEM, RELEVANCE], report=report)
        if not len(frame):
            raise RecsysError(f"{file} holds no judgments")
        judged = frame.unique(maintain_order=True)
        pairs = judged.unique(["query", "item"], keep="first", maintain_order=True)
        if len(pairs) < len(judged) and report is None:
            twice = judged.filter(judged.select("query", "item").is_duplicated()).row(0)
            raise RecsysError(
                f"{file}: item {twice[1]!r} is judged in two ways for the query {twice[0]!r}; "
                "keep one grade"
            )
    if report is not None:
        report.note("query and item are judged again", len(frame) - len(pairs), "dropped")
    return Judgments(
        pairs["query"].to_list(), pairs["item"].to_list(), pairs["relevance"].to_numpy()
    )
