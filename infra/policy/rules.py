"""The table of rules."""

from __future__ import annotations

from infra.policy.governance import missing_tags, no_budget, wildcard_iam
from infra.policy.machines import gpu_maximum, imds_v1
from infra.policy.network import open_ingress, private_path
from infra.policy.rule import Rule
from infra.policy.storage import public_bucket, unencrypted_volume

RULES = (
    Rule("public-bucket", "mandatory", "Nobody outside can be given access to a bucket.",
         public_bucket),
    Rule("open-ingress", "mandatory",
         "SSH and TorchServe's management port are not open to everybody.", open_ingress),
    Rule("unencrypted-volume", "mandatory", "Volumes are encrypted.", unencrypted_volume),
    Rule("imds-v1", "mandatory", "The metadata service asks for a session (IMDSv2).", imds_v1),
    Rule("wildcard-iam", "mandatory",
         "No policy allows every action, or changes to every resource.", wildcard_iam),
    Rule("missing-tags", "mandatory", "Everything tells its environment and layer.", missing_tags),
    Rule("no-budget", "mandatory", "A real environment has a monthly budget.", no_budget),
    Rule("gpu-maximum", "mandatory", "Groups of GPU machines have a largest size.", gpu_maximum),
    Rule("private-path", "mandatory", "No public path leads to private data.", private_path),
)  # fmt: skip
