"""The policy pack: `pulumi preview --policy-pack stacks/policy` holds a stack against our rules."""

from __future__ import annotations

import sys
from pathlib import Path

# The engine starts this with its own folder on the path; imports start from the project's.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from infra.policy.pack import start  # noqa: E402

start()
