"""Print all figures: `python -m benchmarks`, one script after the other, each in its own process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> int:
    """Run every script of this folder with its defaults; 1 where one of them failed."""
    scripts = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    failed = []
    for script in scripts:
        print(f"benchmarks.{script}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{script}"]).returncode != 0:
            failed.append(script)
    if failed:
        print(f"Without figures: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
