"""What secure sums cost in time and bytes.

    python -m benchmarks.privacy [--beauty FOLDER] [--sites 2 10 50]

As many numbers as Beauty's default model at d = 64 has, from 2, 10 and 50 sites: as they are, under
masks (a tenth of the sites drops out, where there are ten or more) and encrypted. Time of the one
site and of the server, without the network, and bytes that a site sends.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from federation.keystream import KEY_BYTES, derive
from federation.secure import homomorphic
from federation.secure.aggregation import Member, Session, conceal, keys_of, reveal, share, unmask
from recsys.data.interactions import load_interactions
from recsys.model import SequentialRecommender
from recsys.recipe import Recipe
from recsys.text import has_texts, read_catalogue

BEAUTY = Path(__file__).resolve().parents[1] / "../shared/data/amazon_beauty_5core"


def numbers_of(data: Path) -> int:
    """Floating-point numbers in the default model of the data, at d = 64."""
    interactions = load_interactions(data)
    recipe = Recipe(dimension=64)
    texts = None
    if has_texts(interactions, recipe):
        texts = read_catalogue(interactions.item_text, recipe.text_buckets)
    model = SequentialRecommender(len(interactions.items), recipe, texts)
    return sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())


def masked(count: int, size: int) -> tuple[float, float, int]:
    """Seconds of one site and of the server, and bytes that the site sends."""
    sites = tuple(f"site-{number:02}" for number in range(count))
    session = Session("benchmark", sites, size)
    members = {site: Member(session, site, derive(bytes(KEY_BYTES), site)) for site in sites}
    lost = set(sites[1 : 1 + count // 10])
    vector = np.random.default_rng(0).integers(0, 2**32, size, dtype=np.uint32)
    keys = {site: keys_of(member) for site, member in members.items()}
    letters = {site: share(member, keys) for site, member in members.items()}
    views = {
        site: conceal(members[site], keys, set(sites), vector)
        for site in sites
        if site not in lost and site != sites[0]
    }

    began = time.perf_counter()
    me = members[sites[0]]
    mine = [keys_of(me), share(me, keys)]
    views[me.site] = conceal(me, keys, set(sites), vector)
    inbox = {sender: sent[me.site] for sender, sent in letters.items()}
    told = {me.site: reveal(me, keys, inbox, set(views))}
    at_site = time.perf_counter() - began

    for site in views.keys() - told.keys():
        inbox = {sender: sent[site] for sender, sent in letters.items()}
        told[site] = reveal(members[site], keys, inbox, set(views))
    began = time.perf_counter()
    total = unmask(session, keys, set(sites), views, told)
    at_server = time.perf_counter() - began
    assert (total == vector * np.uint32(len(views))).all()
    sent = 64 + sum(map(len, mine[1].values())) + vector.nbytes
    return at_site, at_server, sent + sum(map(len, told[me.site].values()))


def encrypted(count: int, size: int) -> tuple[float, float, int]:
    """The same for CKKS; the site also decrypts the sum."""
    secret = homomorphic.new_key()
    vector = np.random.default_rng(0).integers(-(2**24), 2**24, size, dtype=np.int32)
    total = homomorphic.Total(homomorphic.public_of(secret), size)
    at_server = 0.0
    for _ in range(count):
        # Each anew: one ciphertext added to itself would add up the error of its encryption.
        began = time.perf_counter()
        message = homomorphic.encrypt(secret, vector)
        at_site = time.perf_counter() - began
        began = time.perf_counter()
        total.add(message)
        at_server += time.perf_counter() - began
    began = time.perf_counter()
    added = total.serialize()
    at_server += time.perf_counter() - began
    began = time.perf_counter()
    found = homomorphic.decrypt(secret, added)
    at_site += time.perf_counter() - began
    assert (found == count * vector).all()
    return at_site, at_server, sum(map(len, message))


def show_sums(console: Console, size: int, counts: list[int]) -> None:
    """A row for each way and number of sites."""
    table = Table(title=f"a sum of {size:,} numbers from each site")
    for heading in ("way", "sites", "a site, s", "server, s", "MB from a site", "x plain"):
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for count in counts:
        vector = np.random.default_rng(0).normal(size=size).astype(np.float32)
        began = time.perf_counter()
        total = np.zeros(size)
        for _ in range(count):
            total += vector
        plain = (0.0, time.perf_counter() - began, vector.nbytes)
        rows = {"plain": plain, "masks": masked(count, size), "CKKS": encrypted(count, size)}
        for way, (at_site, at_server, sent) in rows.items():
            figures = [f"{at_site:.2f}", f"{at_server:.2f}", f"{sent / 1e6:.1f}"]
            table.add_row(way, str(count), *figures, f"{sent / vector.nbytes:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--beauty", type=Path, default=BEAUTY)
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 10, 50], help="numbers of sites")
    options = parser.parse_args()
    if not options.beauty.exists():
        sys.exit(f"no data at {options.beauty}: give a folder with --beauty")
    show_sums(Console(), numbers_of(options.beauty), options.sites)


if __name__ == "__main__":
    main()
