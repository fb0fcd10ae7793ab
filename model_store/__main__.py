"""Store a folder as a model, on a machine that has nothing but this package:

    python -m model_store FOLDER ADDRESS --lineage JSON
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
    arguments = parser.parse_args()
    try:
        store = open_store(arguments.address)
        write_card(arguments.folder, arguments.lineage)
        digest = store.put(arguments.folder, lineage=arguments.lineage)
        store.move_channel("candidate", digest)
    except StoreError as error:
        sys.exit(str(error))
    print(digest)


if __name__ == "__main__":
    main()
