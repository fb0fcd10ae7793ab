"""What a reader of a pull request sees."""

from __future__ import annotations

from cli.commands.preview import as_markdown
from cli.engine import Change, LayerResult


def test_replacements_and_deletions_come_first_and_in_bold():
    changes = [
        Change("cloud", "create", "aws:ec2/vpc:Vpc", "new", []),
        Change("cloud", "replace", "aws:s3/bucket:Bucket", "models", ["bucket"]),
        Change("cloud", "delete", "aws:ec2/eip:Eip", "old", []),
    ]
    text = as_markdown("production", [LayerResult("cloud", changes, 7)])
    assert text.split("\n") == [
        "## `hybrid preview production`",
        "",
        "### cloud: 3 of 7 change",
        "",
        "| operation | type | name | properties |",
        "| --- | --- | --- | --- |",
        "| **replace** | `aws:s3/bucket:Bucket` | models | `bucket` |",
        "| **delete** | `aws:ec2/eip:Eip` | old |  |",
        "| create | `aws:ec2/vpc:Vpc` | new |  |",
        "",
    ]


def test_a_layer_without_changes_is_one_line():
    text = as_markdown("local", [LayerResult("link", [], 13)])
    assert text.split("\n")[2:] == ["### link: 0 of 13 change", ""]
