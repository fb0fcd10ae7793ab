"""Store a folder as a model, on a machine that has nothing but this package:

    python -m model_store FOLDER ADDRESS --lineage JSON [--data FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from model_store.card import write_card
from model_store.errors import StoreError
from model_store.factory import open_store


def main() -> None:
    """Print the digest; the channel `candidate` then points to it."""
    parser = argparse.ArgumentParser(prog="model_store", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("address")
    parser.add_argument("--lineage", type=json.loads, required=True, metavar="JSON")
    parser.add_argument("--data", type=Path, metavar="FILE",
                        help="what the machine knows of the data, for the lineage")  # fmt: skip
    arguments = parser.parse_args()
    try:
        lineage = dict(arguments.lineage)
        if arguments.data:
            known = json.loads(arguments.data.read_text(encoding="utf-8"))
            lineage["data"] = lineage.get("data", {}) | known
        store = open_store(arguments.address)
        write_card(arguments.folder, lineage)
        # It has no key: who submitted the job signs the model after a look at it.
        digest = store.put(arguments.folder, lineage=lineage)
        store.move_channel("candidate", digest)
    except (StoreError, OSError, ValueError) as error:
        sys.exit(str(error))
    print(digest)


if __name__ == "__main__":
    main()
