"""Dashboards and alert rules: Prometheus takes them, and they ask for what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cli.metrics import GAUGES
from handlers import meter

HERE = Path(__file__).parent
MONITORING = HERE.parents[1] / "infra" / "monitoring"
SERVED = yaml.safe_load((MONITORING / "torchserve.yaml").read_text())
TOLD = {row["name"] for part in ("ts_metrics", "model_metrics") for rows in SERVED[part].values()
        for row in rows} | set(GAUGES)  # fmt: skip
DASHBOARDS = sorted(MONITORING.glob("*.json"))
needs_promtool = pytest.mark.skipif(
    not shutil.which("promtool"), reason="promtool is not installed"
)


def asked(expression: str) -> set[str]:
    """Names of metrics in an expression, but for Prometheus's own."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|(by|on|group_left) \([^)]*\)', "", expression)
    words = set(re.findall(r"[A-Za-z_][A-Za-z0-9_:]*(?![\w:]|\s*\()", bare))
    return words - {"sum", "by", "on", "max", "or", "unless", "group_left", "up"}


def rules() -> list[dict]:
    groups = yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    found = [rule["expr"] for rule in rules()]
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            found += [target["expr"] for target in panel["targets"]]
    return found


def test_torchserve_passes_on_what_the_handlers_tell():
    for kind, metrics in (("counter", meter.COUNTERS), ("gauge", meter.GAUGES)):
        assert SERVED["model_metrics"][kind] == [
            {"name": name, "unit": unit, "dimensions": list(labels)}
            for name, (unit, labels) in metrics.items()
        ]


def test_rules_and_panels_ask_only_for_metrics_that_are_told():
    told = TOLD | {rule["record"] for rule in rules() if "record" in rule}
    for expression in expressions():
        assert asked(expression) <= told, expression


def test_every_metric_of_handlers_and_federation_is_shown():
    shown = set().union(*(asked(expression) for expression in expressions()))
    assert shown >= TOLD


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("warning", "critical"), rule["alert"]
            assert {"summary", "action"} <= set(rule["annotations"]), rule["alert"]


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_can_be_imported_anywhere(file: Path):
    board = json.loads(file.read_text())
    assert board["uid"] and board["title"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for panel in board["panels"]:
        # No data source of the machine on which it was drawn.
        assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}


@needs_promtool
def test_promtool_takes_the_configuration_and_its_rules():
    done = subprocess.run(
        ["promtool", "check", "config", MONITORING / "prometheus.yaml"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@needs_promtool
def test_each_alert_fires_for_its_trouble_and_not_for_less():
    wanted = yaml.safe_load((HERE / "alerts_test.yaml").read_text())
    tried = {case["alertname"] for test in wanted["tests"] for case in test["alert_rule_test"]}
    assert tried == {rule["alert"] for rule in rules() if "alert" in rule}
    done = subprocess.run(
        ["promtool", "test", "rules", HERE / "alerts_test.yaml"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
