"""Trials on paper: their records, what their logs say, what is decided from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from cli import production, trials
from cli.application import PROJECT
from cli.deployment import Deployment
from cli.environment import Environment
from cli.errors import CommandError
from cli.experiment import ABORT, OPEN, PROMOTE, compare, in_words, verdict, watch
from cli.learning import environment_store
from cli.trials import Rules, Trial
from handlers.kinds import RECOMMEND
from tests.cli.ended import ends
from tests.federation.servers import free_port

OLD, NEW = ("sha256:" + digit * 64 for digit in "ab")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    return Environment.load("local", tmp_path)


@pytest.fixture
def trial(environment: Environment) -> Trial:
    return trials.begin(environment, NEW, OLD, 20.0, Rules(margin=0.02, click_window=60))


def log(
    environment: Environment,
    trial: Trial,
    requests: int = 30_000,
    errors: tuple[float, float] = (0.001, 0.001),
    slow: tuple[float, float] = (0.01, 0.01),
    clicks: tuple[float, float] | None = None,
) -> None:
    """Requests of production and canary with these rates, one each 10 ms."""
    draw = np.random.default_rng(5)
    arms = (draw.random(requests) < 0.5).astype(int)
    failed = draw.random(requests) < np.array(errors)[arms]
    late = draw.random(requests) < np.array(slow)[arms]
    with trials.requests_file(environment, trial).open("w") as file:
        for number in range(requests):
            row = {
                "id": f"r{number}", "at": number / 100,
                "arm": ("production", "canary")[arms[number]],
                "status": 503 if failed[number] else 200, "seconds": 0.3 if late[number] else 0.01,
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    if clicks:
        clicked = np.flatnonzero(draw.random(requests) < np.array(clicks)[arms])
        with trials.outcomes_file(environment, trial).open("w") as file:
            for number in clicked:
                file.write(json.dumps({"id": f"r{number}", "at": number / 100 + 5}) + "\n")


@pytest.mark.parametrize(
    ("rates", "decision"),
    [
        ({}, PROMOTE),
        ({"clicks": (0.05, 0.05)}, PROMOTE),
        ({"errors": (0.001, 0.05)}, ABORT),
        ({"slow": (0.01, 0.08)}, ABORT),
        ({"clicks": (0.10, 0.03)}, ABORT),
        ({"clicks": (0.03, 0.10)}, PROMOTE),
        ({"slow": (0.08, 0.01), "errors": (0.05, 0)}, PROMOTE),
        ({"requests": 200}, OPEN),
    ],
)
def test_what_is_decided(environment, trial, rates: dict, decision: str) -> None:
    log(environment, trial, **rates)
    found = compare(environment, trial, now=1e6)
    assert verdict(found) == decision, [in_words(each) for each in found]
    names = ["errors", "slow", "clicks"] if "clicks" in rates else ["errors", "slow"]
    assert [each.name for each in found] == names
    for each in found:
        assert each.low <= each.canary.rate - each.production.rate <= each.high


def test_before_the_first_request_everything_is_open(environment, trial) -> None:
    found = compare(environment, trial)
    assert verdict(found) == OPEN
    assert {(each.canary.requests, each.canary.rate) for each in found} == {(0, None)}


def test_a_line_that_is_torn_or_no_json_counts_as_none(environment, trial) -> None:
    whole = {"id": "r1", "at": 1.0, "arm": "canary", "status": 200, "seconds": 0.01}
    text = json.dumps(whole) + "\n" + '{"id": "r2", "at"\n' + json.dumps(whole)[:-4]
    trials.requests_file(environment, trial).write_text(text)
    assert [each.canary.requests for each in compare(environment, trial)] == [1, 1]


def test_what_no_version_can_help_tells_nothing_of_them(environment, trial) -> None:
    rows = [
        {"id": f"r{n}", "at": float(n), "arm": "canary", "status": 503, "seconds": 0.01,
         "cause": cause}
        for n, cause in enumerate(["", "sessions", "sessions"])
    ]  # fmt: skip
    lines = [json.dumps(row) + "\n" for row in rows]
    trials.requests_file(environment, trial).write_text("".join(lines))
    assert [(each.canary.requests, each.canary.rate) for each in compare(environment, trial)] == [
        (1, 1.0), (1, 0.0),
    ]  # fmt: skip


def test_a_click_counts_within_its_window_and_a_request_once_that_has_passed(
    environment, trial
) -> None:
    rows = [
        {"id": f"r{at}", "at": float(at), "arm": "canary", "status": 200, "seconds": 0.01}
        for at in (0, 10, 100)
    ]
    lines = [json.dumps(row) + "\n" for row in rows]
    trials.requests_file(environment, trial).write_text("".join(lines))
    clicks = [("r0", 59.0), ("r0", 61.0), ("r10", 71.0), ("r100", 101.0), ("unknown", 1.0)]
    lines = [json.dumps({"id": name, "at": at}) + "\n" for name, at in clicks]
    trials.outcomes_file(environment, trial).write_text("".join(lines))
    clicked = {each.name: each.canary for each in compare(environment, trial, now=120.0)}["clicks"]
    assert (clicked.requests, clicked.rate) == (2, 0.5)


def test_a_clock_that_was_put_back_makes_no_request_count_as_without_a_click(
    environment, trial
) -> None:
    log(environment, trial, clicks=(0.1, 0.1))
    before = {each.name: each for each in compare(environment, trial, now=1e6)}
    # The log's times are in the future now, so that none of its clicks can be told to be missing.
    after = {each.name: each for each in compare(environment, trial, now=-3600.0)}
    assert after["errors"] == before["errors"] and after["slow"] == before["slow"]
    assert before["clicks"].canary.requests > 10_000
    assert after["clicks"].canary.requests == 0
    assert verdict(list(after.values())) == OPEN


def test_a_shadow_is_not_judged_by_clicks(environment) -> None:
    shadow = trials.begin(environment, NEW, OLD, None, Rules())
    log(environment, shadow, 100, clicks=(0.5, 0.5))
    assert [each.name for each in compare(environment, shadow)] == ["errors", "slow"]


def test_a_trial_is_one_file_that_says_whether_it_is_on(environment, trial) -> None:
    assert trials.current(environment) == trial
    again = trials.begin(environment, NEW, OLD, 50.0, Rules())
    assert trials.current(environment) == again and again.name > trial.name
    trials.end(environment, again, "aborted")
    assert trials.current(environment) is None
    assert [each.ended for each in trials.trials(environment)] == [None, "aborted"]
    assert trials.find(environment, "0001") == trial
    with pytest.raises(CommandError, match="no trial '7' .0001-bbbbbbbbbbbb, 0002-"):
        trials.find(environment, "7")


def test_a_record_that_is_none_is_named(environment, trial) -> None:
    file = environment.folder / "experiments" / f"{trial.name}.json"
    file.write_text("{")
    with pytest.raises(CommandError, match=f"{file} is no record of a trial"):
        trials.current(environment)


def test_watching_ends_when_somebody_else_has_decided(environment, trial) -> None:
    log(environment, trial, 50)
    said: list[str] = []

    def decide(seconds: float) -> None:
        trials.end(environment, trial, "aborted")

    assert watch(environment, trial, said.append, sleep=decide) is None
    assert said[-1] == "The trial of bbbbbbbbbbbb was aborted by another command."
    assert said[0].startswith("errors: ") and said[0].endswith(": open")
    assert len(said) == 3


def test_a_shadow_is_told_of_and_not_promoted(environment) -> None:
    shadow = trials.begin(environment, NEW, OLD, None, Rules(margin=0.02))
    log(environment, shadow)
    said: list[str] = []
    assert watch(environment, shadow, said.append) is None
    assert "A shadow decides nothing" in said[-1]
    assert trials.current(environment) == shadow


def test_show_prints_both_versions_with_intervals(environment, trial, capsys) -> None:
    log(environment, trial, errors=(0.001, 0.05))
    code, text, _ = ends(capsys, "experiment", "show")
    assert code == 0 and "20 % of users" in text and "worse" in text
    code, text, _ = ends(capsys, "experiment", "show", trial.name, "--json")
    shown = json.loads(text)
    assert (shown["verdict"], shown["model"], shown["share"]) == (ABORT, NEW, 20.0)
    assert shown["rates"][0]["low"] > 0.02
    code, text, _ = ends(capsys, "experiment", "list", "--json")
    assert [each["name"] for each in json.loads(text)] == [trial.name]
    trials.begin(environment, NEW, OLD, 20.0, Rules(), "click")
    assert f"{NEW} for production-click with 20 %" in ends(capsys, "experiment", "show")[1]
    assert ends(capsys, "experiment", "list")[1].count("production-click") == 1


def test_a_trial_from_before_other_kinds_were_tried_is_of_a_recommender(
    environment, trial
) -> None:
    file = environment.folder / "experiments" / f"{trial.name}.json"
    fields = json.loads(file.read_text())
    del fields["kind"]
    file.write_text(json.dumps(fields))
    assert trials.current(environment) == trial and trial.channel == "production"


def test_clicks_are_recorded_for_the_trial_that_is_on(environment, trial, capsys) -> None:
    assert ends(capsys, "experiment", "record", "r1", "r2")[0] == 0
    lines = trials.outcomes_file(environment, trial).read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["r1", "r2"]
    # Nobody asked under these ids.
    assert json.loads(ends(capsys, "experiment", "show", "--json")[1])["stray_clicks"] == 2
    assert "no such request: 2." in ends(capsys, "experiment", "show")[1]
    trials.end(environment, trial, "promoted")
    code, _, error = ends(capsys, "experiment", "record", "r3")
    assert code == 1 and "No trial is on" in error


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--canary", "0"], "'0' is no share above 0 % and up to 100 %"),
        (["--canary", "nan"], "'nan' is no share"),
        (["--canary", "101%"], "'101%' is no share"),
        (["--canary", "5%", "--shadow"], "--canary and --shadow exclude each other"),
        (["candidate", "--abort"], "--abort takes no MODEL: it knows which one"),
        (["--canary", "5%", "--margin", "0"], "Invalid value for '--margin'"),
        (["--canary", "5%", "--margin", "nan"], "'--margin': nan is not a finite number"),
        (["--canary", "5%", "--slow-after", "inf"], "'--slow-after': inf is not a finite number"),
        (["--detach"], "--detach goes with --canary or --shadow"),
        (["candidate", "--margin", "2"], "--margin goes with --canary or --shadow"),
        (["--watch", "--slow-after", "1"], "--slow-after goes with --canary or --shadow"),
        (["candidate", "--kind", "search"], "--kind goes with --rollback"),
    ],
)
def test_wrong_usage_of_deploy_is_told(environment, capsys, arguments, sentence) -> None:
    code, _, error = ends(capsys, "deploy", *arguments)
    assert code == 2 and sentence in error


def test_deploying_under_a_trial_is_refused(environment, trial, tmp_path, capsys) -> None:
    for name in RECOMMEND.files:
        (tmp_path / "model" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_text("{}")
    store = environment_store(environment)
    store.move_channel("candidate", store.put(tmp_path / "model", lineage={}))
    for arguments in (["candidate"], ["--rollback"]):
        code, _, error = ends(capsys, "deploy", *arguments)
        assert code == 1
        told = "bbbbbbbbbbbb is on trial for production with 20 % of users: hybrid deploy --promote or"
        assert told in error


def test_a_trial_keeps_only_its_own_kind_from_being_deployed(environment, trial, capsys) -> None:
    trials.end(environment, trial, "aborted")
    trials.begin(environment, NEW, OLD, 20.0, Rules(), "search")
    code, _, error = ends(capsys, "deploy", "--rollback", "--kind", "search")
    assert code == 1 and "bbbbbbbbbbbb is on trial for production-search with 20 %" in error
    for kind in ("recommend", "rating"):
        code, _, error = ends(capsys, "deploy", "--rollback", "--kind", kind)
        assert code == 1 and "there is none to go back to" in error


def test_without_a_trial_there_is_nothing_to_decide(environment, capsys) -> None:
    for option in ("--promote", "--abort"):
        code, _, error = ends(capsys, "deploy", option)
        assert code == 1 and "No trial is on: hybrid deploy MODEL --canary 10% begins one" in error


def test_status_tells_of_a_trial_whose_servers_are_gone(environment, trial, capsys) -> None:
    settings = yaml.safe_load((PROJECT / "stacks" / "environments" / "local.yaml").read_text())
    for name in settings["ports"]["torchserve"]:
        settings["ports"]["torchserve"][name] = free_port()
    own = environment.folder.parent / "environments" / "local.yaml"
    own.parent.mkdir(exist_ok=True)
    own.write_text(yaml.safe_dump(settings))
    code, text, _ = ends(capsys, "status")
    told = f"On trial for production: {NEW} with 20 %, but the proxy does not answer: hybrid up"
    assert code == 0 and told in text
    trials.begin(environment, NEW, OLD, 20.0, Rules(), "search")
    assert f"On trial for production-search: {NEW} with 20 %" in ends(capsys, "status")[1]


def test_a_second_deploy_at_the_same_time_is_refused(environment, trial, capsys) -> None:
    from cli.lock import environment_lock

    with environment_lock(environment.folder, "hybrid deploy"):
        code, _, error = ends(capsys, "deploy", "--abort")
    assert code == 1 and "in use (`hybrid deploy`" in error
    assert trials.current(environment) == trial


def test_a_rollback_loads_no_part_that_it_does_not_need(environment) -> None:
    """Users wait for it."""
    heavy = {"httpx", "tenacity", "supervisor", "rich", "polars", "torch", "handlers.archive"}
    code = f"""if True:
        import sys
        from cli.main import main
        try:
            main(["deploy", "--rollback"])
        except SystemExit:
            import cli.serving_client
            cli.serving_client.ServingClient("http://127.0.0.1:1", "http://127.0.0.1:1").ready()
            print({heavy!r} & set(sys.modules))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "there is none to go back to" in done.stderr
    assert done.stdout.strip() == "set()"


def test_a_deployment_that_the_audit_log_cannot_note_is_told_as_done(environment) -> None:
    """As on a disk that is full since the channel moved."""
    log = environment.audit_log().path
    log.mkdir(parents=True)
    with pytest.raises(CommandError, match=f"Model {NEW} is in production, but {log} could not"):
        production.deployed(environment, Deployment(NEW, OLD, changed=True))


def test_without_nginx_a_trial_says_what_to_install(environment, monkeypatch, capsys) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    code, _, error = ends(capsys, "deploy", "--canary", "10%")
    assert code == 1 and "sudo apt-get install nginx-light, then hybrid up" in error
