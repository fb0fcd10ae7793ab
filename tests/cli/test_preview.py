"""What a reader of a pull request sees."""

from __future__ import annotations

from cli.changes import Change, LayerResult
from cli.markdown import plan_markdown
from infra.policy.review import Finding


def test_what_is_lost_comes_first_and_replacements_before_the_rest():
    changes = [
        Change("cloud", "create", "aws:ec2/vpc:Vpc", "new", []),
        Change("cloud", "replace", "aws:s3/bucket:Bucket", "models", ["bucket"], ["bucket"]),
        Change("cloud", "delete", "aws:ec2/eip:Eip", "old", []),
    ]
    text = plan_markdown("production", [LayerResult("cloud", changes, 7)], [])
    assert text.split("\n") == [
        "## `hybrid preview production`",
        "",
        "### What is lost",
        "",
        "- **replace** cloud / models: all objects in it and their versions (because of `bucket`)",
        "- **delete** cloud / old: the public address, which others may have allowed",
        "",
        "### cloud: 3 of 7 change",
        "",
        "| operation | type | name | properties |",
        "| --- | --- | --- | --- |",
        "| **replace** | `aws:s3/bucket:Bucket` | models | `bucket` |",
        "| **delete** | `aws:ec2/eip:Eip` | old |  |",
        "| create | `aws:ec2/vpc:Vpc` | new |  |",
        "",
        "### Policies: all hold",
        "",
    ]


def test_a_layer_without_changes_is_one_line():
    text = plan_markdown("local", [LayerResult("link", [], 13)], [])
    assert text.split("\n")[2:4] == ["### link: 0 of 13 change", ""]


def test_violations_that_stop_up_are_in_bold():
    kept = Finding("imds-v1", "mandatory", "cloud", "it", "", "is open", waived_until="2027-01-01")
    findings = [Finding("no-budget", "mandatory", "settings", "settings", "", "is missing"), kept]
    text = plan_markdown("production", [], findings)
    assert "### Policies: 2 violations, 1 stop `hybrid up`" in text
    assert "| **no-budget** | mandatory | settings | is missing |" in text
    assert "| imds-v1 | mandatory | it | is open (waived until 2027-01-01) |" in text
