"""Before anything is done in an account: is it the right one, do the credentials hold, is it busy."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qs

import pytest
import yaml

from cli.environment import Environment
from cli.errors import CommandError
from cli.gpu_health import gpu_findings
from cli.main import main
from cli.preflight import require_account, require_instance_types
from infra.clients import ATTEMPTS
from infra.faults import CloudError
from stacks.settings import SHIPPED

ACCOUNT = "111122223333"


class Answers(HTTPServer):
    """Answers each AWS call with the next of `bodies`, the last one for ever; notes the calls."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[str] = []
        self.bodies: list[tuple[int, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Answers

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.calls.append(parse_qs(body)["Action"][0])
        bodies = self.server.bodies
        status, text = bodies.pop(0) if len(bodies) > 1 else bodies[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None:
        return None


def caller(account: str) -> tuple[int, str]:
    arn = f"arn:aws:sts::{account}:assumed-role/operator/me"
    inner = f"<Arn>{arn}</Arn><UserId>me</UserId><Account>{account}</Account>"
    return 200, (
        "<GetCallerIdentityResponse><GetCallerIdentityResult>"
        f"{inner}</GetCallerIdentityResult></GetCallerIdentityResponse>"
    )


def refusal(code: str) -> tuple[int, str]:
    return 400, (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>no</Message></Error>"
        "</ErrorResponse>"
    )


def offerings(*zones: str) -> tuple[int, str]:
    items = "".join(f"<item><location>{zone}</location></item>" for zone in zones)
    return 200, (
        "<DescribeInstanceTypeOfferingsResponse><instanceTypeOfferingSet>"
        f"{items}</instanceTypeOfferingSet></DescribeInstanceTypeOfferingsResponse>"
    )


@pytest.fixture
def aws():
    server = Answers()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def shop(aws, tmp_path, monkeypatch) -> Environment:
    """An environment like the shipped example, whose AWS is the server of this test."""
    settings = yaml.safe_load((SHIPPED / "production.yaml").read_text())
    settings["aws"] = {"account": ACCOUNT, "endpoint": aws.url}
    (tmp_path / "environments").mkdir()
    (tmp_path / "environments" / "shop.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("HYBRID_HOME", str(tmp_path))
    return Environment.load("shop", tmp_path)


@pytest.mark.parametrize(
    "command", [["up"], ["preview"], ["drift"], ["down", "--yes"], ["orphans"]], ids=" ".join
)
def test_another_account_stops_every_command_before_its_first_call(aws, shop, command, capsys):
    aws.bodies = [caller("999988887777")]
    with pytest.raises(SystemExit) as stop:
        main([*command, "shop"])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert "account 999988887777 (arn:aws:sts::999988887777:assumed-role/operator/me)" in said
    assert f"aws.account of shop is {ACCOUNT}" in said and "Nothing was done." in said
    assert aws.calls == ["GetCallerIdentity"]
    assert not shop.project.exists()


def test_doctor_finds_another_account_and_asks_it_nothing_more(aws, shop):
    aws.bodies = [caller("999988887777")]
    (finding,) = gpu_findings(shop)
    assert not finding.ok and "account 999988887777" in finding.detail
    assert aws.calls == ["GetCallerIdentity"]


def test_the_right_account_passes(aws, shop):
    aws.bodies = [caller(ACCOUNT)]
    require_account(shop)


def test_expired_credentials_are_told_with_what_renews_them(aws, shop):
    aws.bodies = [refusal("ExpiredToken")]
    with pytest.raises(CloudError, match="The AWS credentials have expired: renew them"):
        require_account(shop)
    assert len(aws.calls) == 1


def test_a_throttled_call_is_tried_again(aws, shop, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", waits.append)
    aws.bodies = [refusal("Throttling"), refusal("Throttling"), caller(ACCOUNT)]
    require_account(shop)
    assert len(aws.calls) == 3 and len(waits) == 2


def test_throttling_without_end_is_told(aws, shop, monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time.sleep", waits.append)
    aws.bodies = [refusal("Throttling")]
    with pytest.raises(CloudError, match=f"throttles these calls, also after {ATTEMPTS} attempts"):
        require_account(shop)
    assert len(aws.calls) == ATTEMPTS
    # Full jitter below a bound that doubles up to 20 s.
    assert all(wait <= min(20, 2**number) for number, wait in enumerate(waits))


def test_a_zone_without_the_instance_types_is_named(aws, shop):
    zones = shop.settings.zones
    aws.bodies = [offerings(*zones[:-1])]
    with pytest.raises(CommandError) as refused:
        require_instance_types(shop)
    said = str(refused.value)
    assert said.startswith(f"Zone {zones[-1]} offers none of gpu_pool.instance_types")
    assert re.search(rf"{shop.settings.gpu_pool.instance_types[0]}.*{zones[0]}.* does", said)
    aws.bodies = [offerings(*zones)]
    require_instance_types(shop)
