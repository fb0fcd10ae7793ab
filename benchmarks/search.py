"""Search quality: the hybrid ranker beside BM25, on queries that people judged.

    python -m benchmarks.search [--data FOLDER] [--epochs 10] [--folds 5]

The peer is bm25s as its documentation uses it: its own tokeniser with English stop words over all
of an item's text. "BM25" is this project's lexical part: the same library over weighted fields and
the project's tokeniser. The hybrid's weights are fitted by cross-validation: a query is never
scored with weights that it helped to choose. The towers see the catalogue and no query.

NDCG@10 counts an unjudged item as irrelevant; "condensed" leaves such items out first. Queries
without a relevant item cannot tell rankers apart and are left out of all rows. Intervals are 95 %
percentile bootstraps over queries; p is a paired permutation test. Cross-validation guards the weights
only: tokeniser and fields were chosen with these same queries in sight.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import bm25s
import numpy as np
from rich.console import Console
from rich.table import Table

from recsys.data.catalogue import load_catalogue
from recsys.data.queries import load_judgments
from recsys.search.quality import ndcg
from recsys.search.ranker import candidates_of, cross_validated, train_search
from recsys.search.towers import TowerRecipe
from recsys.significance import bootstrap_means, paired_permutation

CHORUS = Path(__file__).resolve().parents[1] / "../shared/data/chorus_electronics_search"


def library_rankings(texts: list[str], queries: list[str]) -> dict[str, list[int]]:
    """All items in the order that bm25s gives them by its defaults."""
    index = bm25s.BM25()
    index.index(bm25s.tokenize(texts, show_progress=False), show_progress=False)
    rankings = {}
    for query in queries:
        (typed,) = bm25s.tokenize([query], return_ids=False, show_progress=False)
        known = [word for word in typed if word in index.vocab_dict]
        scores = index.get_scores(known) if known else np.zeros(len(texts))
        rankings[query] = np.argsort(-scores, kind="stable").tolist()
    return rankings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=CHORUS)
    parser.add_argument("--epochs", type=int, default=TowerRecipe.epochs)
    parser.add_argument("--folds", type=int, default=5)
    options = parser.parse_args()
    if not options.data.exists():
        sys.exit(f"no data at {options.data}: give a folder with --data")
    console = Console()
    catalogue = load_catalogue(options.data)
    judged = load_judgments(options.data).by_query()
    began = time.monotonic()
    model = train_search(catalogue, TowerRecipe(epochs=options.epochs))
    console.print(f"indexed and trained in {time.monotonic() - began:.0f} s")
    pools = candidates_of(model, judged)
    weights = cross_validated(pools, folds=options.folds)

    def figures(rank) -> tuple[np.ndarray, np.ndarray]:
        ranked = {query: rank(query) for query in pools}
        return tuple(
            np.array([ndcg(ranked[q], pools[q].grades, condensed=c) for q in pools])
            for c in (False, True)
        )

    rankings = library_rankings(catalogue["text"].to_list(), list(pools))

    def fused(query: str) -> list[int]:
        """Reciprocal-rank fusion of BM25 and towers (Cormack et al., 2009, k = 60)."""
        pool = pools[query]
        ranks = np.argsort(np.argsort(-pool.signals[:, [0, 2]], axis=0, kind="stable"), axis=0)
        return pool.items[np.argsort(-(1 / (61 + ranks)).sum(1), kind="stable")].tolist()

    lexical, semantic = np.array([1.0, 0, 0], np.float32), np.array([0, 0, 1.0], np.float32)
    rows = {
        "bm25s, its defaults": figures(rankings.get),
        "BM25": figures(lambda query: pools[query].ranked(lexical)),
        "towers": figures(lambda query: pools[query].ranked(semantic)),
        "BM25 and towers by rank": figures(fused),
        "hybrid": figures(lambda query: pools[query].ranked(weights[query])),
    }
    title = f"{options.data.name}: {len(pools)} of {len(judged)} judged queries"
    table = Table("", "NDCG@10", "95 %", "condensed", "95 %", title=title)
    for name, parts in rows.items():
        cells = []
        for values in parts:
            (low,), (high,) = bootstrap_means(values[:, None], seed=0)
            cells += [f"{values.mean():.4f}", f"{low:.4f} to {high:.4f}"]
        table.add_row(name, *cells)
    console.print(table)
    for other in ("bm25s, its defaults", "BM25", "BM25 and towers by rank"):
        for part, name in enumerate(("NDCG@10", "condensed")):
            differences = (rows["hybrid"][part] - rows[other][part])[:, None]
            (low,), (high,) = bootstrap_means(differences, seed=0)
            (p,) = paired_permutation(differences, seed=0)
            console.print(
                f"hybrid - {other}: {differences.mean():+.4f} {name} ({low:+.4f} to {high:+.4f}, "
                f"p = {p:.4f})",
                soft_wrap=True,
            )
    chosen = {tuple(f"{share:.2f}" for share in w) for w in weights.values()}
    console.print(f"weights (lexical, title, semantic) by fold: {sorted(chosen)}", soft_wrap=True)


if __name__ == "__main__":
    main()
