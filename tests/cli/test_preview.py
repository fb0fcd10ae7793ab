"""What a reader of a pull request sees."""

from __future__ import annotations

import pytest

from cli.changes import Change, LayerResult
from cli.markdown import LOST, plan_markdown
from cli.planning import Assessment
from infra.cost import Cost, Item
from infra.offline.schema import input_properties
from infra.policy.review import Finding

NAT = Item("cloud", "nat", "NatGateway, 0.045 an hour", 32.85, 41.39)
EMPTY = Cost([])


def means(
    findings=(), before: Cost = EMPTY, after: Cost = EMPTY, budget: float | None = None
) -> Assessment:
    return Assessment(list(findings), before, after, "A round costs 1 USD.", budget)


def test_what_is_lost_comes_first_and_replacements_before_the_rest():
    changes = [
        Change("cloud", "create", "aws:ec2/vpc:Vpc", "new", []),
        Change("cloud", "replace", "aws:s3/bucket:Bucket", "models", ["bucket"], ["bucket"]),
        Change("cloud", "delete", "aws:ec2/eip:Eip", "old", []),
    ]
    text = plan_markdown("production", [LayerResult("cloud", changes, 7)], means())
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
        "### A month: 0.00 to 0.00 → 0.00 to 0.00 USD",
        "",
        "A round costs 1 USD.",
    ]


@pytest.mark.parametrize("kind", LOST)
def test_what_is_told_to_be_lost_is_of_a_type_that_there_is(kind):
    assert input_properties(kind)


def test_a_layer_without_changes_is_one_line():
    text = plan_markdown("local", [LayerResult("link", [], 13)], means())
    assert text.split("\n")[2:4] == ["### link: 0 of 13 change", ""]


def test_violations_that_stop_up_are_in_bold():
    kept = Finding("imds-v1", "mandatory", "cloud", "it", "", "is open", waived_until="2027-01-01")
    findings = [Finding("no-budget", "mandatory", "settings", "settings", "", "is missing"), kept]
    text = plan_markdown("production", [], means(findings))
    assert "### Policies: 2 violations, 1 stop `hybrid up`" in text
    assert "| **no-budget** | mandatory | settings | is missing |" in text
    assert "| imds-v1 | mandatory | it | is open (waived until 2027-01-01) |" in text


def test_a_waived_violation_is_told_in_one_line():
    kept = Finding("imds-v1", "mandatory", "cloud", "it", "", "is open", waived_until="2027-01-01")
    assert kept.line == "imds-v1 (mandatory): it: is open (waived until 2027-01-01)"


def test_costs_are_told_before_and_after_with_the_items_that_change():
    kept = Item("cloud", "eip", "Eip", 3.65, 4.60)
    text = plan_markdown("shop", [], means([], Cost([kept]), Cost([NAT, kept])))
    assert "### A month: 3.65 to 4.60 → 36.50 to 45.99 USD" in text
    assert "| + | nat | NatGateway, 0.045 an hour | 32.85 to 41.39 |" in text
    assert "eip" not in text


def test_a_budget_that_stops_up_is_told_under_the_costs():
    above, enough = (
        plan_markdown("shop", [], means(after=Cost([NAT]), budget=budget)) for budget in (41, 42)
    )
    told = "**That is more than budget.monthly_usd 41.00: it stops `hybrid up`.**"
    assert above.index("### A month: ") < above.index(told) < above.index("A round costs")
    assert "budget" not in enough
