"""The proxy in front of TorchServe: its configuration, and a real nginx before a small server."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from tenacity import retry, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from cli.nginx import nginx_command, nginx_program, reload_nginx
from infra.serving_proxy import (
    FINGERPRINT_PATH,
    LEAVING,
    SecondVersion,
    ServingProxy,
    fingerprint,
    serving_configuration,
)

MODEL_PATH = "/predictions/recommend"
GOLDEN = Path(__file__).parent / "golden"
NEW = "ab" * 32
PROXY = ServingProxy("127.0.0.1:18652", 18650, "/var/lib/hybrid/serving")
KINDS = {
    "alone": PROXY,
    "canary": replace(PROXY, second=SecondVersion(NEW, 12.5, "/var/lib/hybrid/log")),
    "shadow": replace(
        PROXY, client_header="X-Api-Key", second=SecondVersion(NEW, None, "/var/lib/hybrid/log")
    ),
}
needs_nginx = pytest.mark.skipif(nginx_program() is None, reason="nginx is not installed")


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_is_the_golden_one(kind: str) -> None:
    expected = (GOLDEN / f"serving_proxy_{kind}.conf").read_text()
    assert serving_configuration(KINDS[kind]) == expected


def test_a_fingerprint_tells_configurations_apart_and_stands_in_its_own() -> None:
    marks = [fingerprint(proxy) for proxy in KINDS.values()]
    assert len(set(marks)) == 3
    for mark, proxy in zip(marks, KINDS.values(), strict=True):
        assert f'return 200 "{mark}"' in serving_configuration(proxy)


@needs_nginx
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [None, 0.01, 100])
def test_nginx_accepts_it(kind: str, share: float | None, tmp_path: Path) -> None:
    proxy = replace(KINDS[kind], folder=str(tmp_path))
    if share and proxy.second:
        proxy = replace(proxy, second=SecondVersion(NEW, share, str(tmp_path / "log")))
    elif proxy.second:
        proxy = replace(proxy, second=replace(proxy.second, log=str(tmp_path / "log")))
    file = tmp_path / "nginx.conf"
    file.write_text(serving_configuration(proxy))
    done = subprocess.run(
        [nginx_program(), "-t", "-q", "-e", "stderr", "-c", file], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Upstream(ThreadingHTTPServer):
    """Answers with the path that it was asked for; first with its `statuses`, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.statuses: dict[str, list[int]] = {}
        self.paths: list[str] = []


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one piece, which does not wait for its acknowledgement

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.paths.append(self.path)
        answer = json.dumps({"path": self.path, "body": body.decode()}).encode()
        statuses = self.server.statuses.get(self.path)
        self.send_response(statuses.pop(0) if statuses else 200)
        self.send_header("Content-Length", str(len(answer)))
        if cause := self.headers.get("Fails-For"):
            self.send_header("X-Hybrid-Cause", cause)
        self.send_header("X-Request-Id", "torchserves-own")
        self.send_header("Was-Of-Type", self.headers.get("Content-Type", ""))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


class Nginx:
    """A running nginx whose configuration can be changed."""

    def __init__(self, folder: Path, upstream: Upstream) -> None:
        self.upstream, self.log = upstream, folder / "requests.jsonl"
        self.plain = ServingProxy(
            f"127.0.0.1:{free_port()}", upstream.server_port, str(folder),
            requests_per_second=100_000, burst=100_000, request_bytes=2000,
        )  # fmt: skip
        self.file = folder / "nginx.conf"
        self.file.write_text(serving_configuration(self.plain))
        self.output = folder / "output.jsonl"
        # As `hybrid up` makes it; nginx's workers may not enter the folders above where root runs it.
        working = folder / "working"
        working.mkdir()
        working.chmod(0o711)
        self.leaving = working / LEAVING
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                nginx_command(nginx_program(), self.file), stdout=output, cwd=working
            )
        # A client of its own for each test's calls: a reload ends idle connections.
        answers = retry(
            retry=retry_if_exception_type(httpx.TransportError),
            stop=stop_after_delay(20), wait=wait_fixed(0.02),
        )  # fmt: skip
        answers(self.get)(FINGERPRINT_PATH)

    def get(self, path: str, **options: object) -> httpx.Response:
        return httpx.get(f"http://{self.plain.listen}{path}", timeout=20, **options)

    def ask(self, user: str = "", path: str = MODEL_PATH, **options) -> httpx.Response:
        given = {"headers": {"X-User": user} if user else {}, "content": b"{}"} | options
        return httpx.post(f"http://{self.plain.listen}{path}", timeout=20, **given)

    def use(self, **changes: object) -> None:
        proxy = replace(self.plain, **changes)
        self.file.write_text(serving_configuration(proxy))
        reload_nginx(self.process.pid, "serving")
        assert self.get(FINGERPRINT_PATH).text == fingerprint(proxy)

    def share(self, share: float | None, kind: str = "recommend") -> None:
        self.log.unlink(missing_ok=True)
        self.use(second=SecondVersion(NEW, share, str(self.log), kind))

    def lines(self, number: int, log: Path | None = None) -> list[dict]:
        """A log once it has so many lines; nginx writes one after it has answered."""
        found = retry(
            retry=retry_if_result(lambda lines: len(lines) < number),
            stop=stop_after_delay(20), wait=wait_fixed(0.02),
        )(lambda: (log or self.log).read_text().splitlines())()  # fmt: skip
        return [json.loads(line) for line in found]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    upstream = Upstream()
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    nginx = Nginx(tmp_path_factory.mktemp("nginx"), upstream)
    yield nginx
    nginx.process.terminate()
    nginx.process.wait()
    upstream.shutdown()
    upstream.server_close()


@pytest.fixture
def nginx(running: Nginx) -> Nginx:
    running.use()
    running.upstream.paths.clear()
    running.upstream.statuses.clear()
    return running


@needs_nginx
def test_only_predictions_and_ping_pass(nginx: Nginx) -> None:
    answer = nginx.ask(path="/predictions/recommend?k=3", content=b'{"history": []}')
    assert answer.json() == {"path": "/predictions/recommend?k=3", "body": '{"history": []}'}
    assert len(answer.headers["X-Request-Id"]) == 32
    assert nginx.get("/ping").json()["path"] == "/ping"
    passed = len(nginx.upstream.paths)
    for path in (
        "/models", "/models/recommend/set-default", "/metrics", "/api-description", "/",
        f"/predictions/recommend/{NEW}", "/predictions/../models", "/predictions/%2e%2e/models",
        "/explanations/recommend", "/workflows", "/wfpredict/x",
    ):  # fmt: skip
        refused = nginx.ask(path=path)
        assert refused.status_code == 403, path
        assert refused.json() == {"error": "Only predictions are served here."}
    assert len(nginx.upstream.paths) == passed


@needs_nginx
@pytest.mark.parametrize("share", [None, 0, 100])
def test_before_a_reload_each_answer_ends_its_connection_and_is_still_asked_for_twice(
    nginx: Nginx, share: float | None
) -> None:
    if share != 0:
        nginx.share(share)
    path = f"{MODEL_PATH}/{NEW}" if share else MODEL_PATH
    nginx.upstream.statuses[path] = [503]
    with httpx.Client(base_url=f"http://{nginx.plain.listen}", timeout=20) as client:
        nginx.leaving.touch()
        last = client.post(MODEL_PATH, content=b"{}")
        nginx.leaving.unlink()
        later = client.post(MODEL_PATH, content=b"{}")
    assert [last.headers["Connection"], later.headers["Connection"]] == ["close", "keep-alive"]
    assert last.json() == later.json() == {"path": path, "body": "{}"}


@needs_nginx
def test_torchserve_takes_no_form_apart(nginx: Nginx) -> None:
    for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = nginx.ask(headers={"Content-Type": kind}, content=b'{"history": "%7"}')
        assert answer.headers["Was-Of-Type"] == "application/json"
        assert answer.json()["body"] == '{"history": "%7"}'


@needs_nginx
def test_what_a_model_says_to_who_may_not_ask_reaches_the_client(nginx: Nginx) -> None:
    nginx.upstream.statuses[MODEL_PATH] = [403, 401]
    for status in (403, 401):
        answer = nginx.ask()
        assert (answer.status_code, answer.json()["path"]) == (status, MODEL_PATH)
    refused = nginx.get("/models")
    assert (refused.status_code, refused.json()) == (
        403, {"error": "Only predictions are served here."},
    )  # fmt: skip


@needs_nginx
def test_what_is_too_large_or_too_often_is_refused(nginx: Nginx) -> None:
    assert nginx.ask(content=b"x" * 2000).status_code == 200
    large = nginx.ask(content=b"x" * 2001)
    assert (large.status_code, large.json()) == (
        413, {"error": "The body is larger than 2000 bytes."},
    )  # fmt: skip
    nginx.use(requests_per_second=1, burst=2, client_header="X-Api-Key")
    answers = iter(nginx.ask, None)
    refused = next(answer for answer in answers if answer.status_code != 200)
    assert (refused.status_code, refused.json()) == (
        429, {"error": "Too many requests: ask again in a second."},
    )  # fmt: skip
    assert nginx.ask(headers={"X-Api-Key": "another"}).status_code == 200


@needs_nginx
@pytest.mark.parametrize("status", [500, 503, 507])
def test_a_request_whose_worker_died_is_asked_once_again(nginx: Nginx, status: int) -> None:
    nginx.upstream.statuses[MODEL_PATH] = [status]
    answer = nginx.ask(content=b'{"k": 1}')
    assert (answer.status_code, answer.json()["body"]) == (200, '{"k": 1}')
    assert nginx.upstream.paths == ["/predictions/recommend"] * 2
    nginx.upstream.statuses[MODEL_PATH] = [status, status]
    assert nginx.ask().status_code == status
    nginx.upstream.statuses[MODEL_PATH] = [400]
    assert nginx.ask().status_code == 400
    assert len(nginx.upstream.paths) == 5


@needs_nginx
def test_a_user_keeps_to_a_version_and_a_larger_share_only_adds_users(nginx: Nginx) -> None:
    users = [f"user-{number}" for number in range(200)]

    def canary_users() -> set[str]:
        with httpx.Client() as client:
            url = f"http://{nginx.plain.listen}/predictions/recommend"
            answers = {u: client.post(url, headers={"X-User": u}).json()["path"] for u in users}
        assert set(answers.values()) <= {
            "/predictions/recommend", f"/predictions/recommend/{NEW}",
        }  # fmt: skip
        return {user for user, path in answers.items() if path.endswith(NEW)}

    shares = {}
    for share in (10, 25, 60, 100):
        nginx.share(share)
        shares[share] = canary_users()
    nginx.share(10)
    assert canary_users() == shares[10]
    assert shares[10] < shares[25] < shares[60] < shares[100] == set(users)
    assert 5 <= len(shares[10]) <= 40 and 90 <= len(shares[60]) <= 150
    assert nginx.ask("user-1", path="/predictions/similar").json()["path"] == "/predictions/similar"


@needs_nginx
def test_the_log_tells_version_status_and_time_and_names_no_user(nginx: Nginx) -> None:
    nginx.share(50)
    nginx.upstream.statuses[MODEL_PATH] = [500, 500]
    ids = [nginx.ask(f"someone-{n}").headers["X-Request-Id"] for n in range(20)]
    nginx.get("/ping")
    lines = nginx.lines(20)
    assert [line["id"] for line in lines] == ids
    assert Counter(line["status"] for line in lines) == {200: 19, 500: 1}
    assert {line["arm"] for line in lines} == {"production", "canary"}
    assert all(line.keys() == {"id", "at", "arm", "status", "seconds", "cause"} for line in lines)
    assert {line["cause"] for line in lines} == {""}
    assert "someone" not in nginx.log.read_text()
    nginx.upstream.statuses |= {MODEL_PATH: [503] * 2, f"{MODEL_PATH}/{NEW}": [503] * 2}
    nginx.ask(headers={"Fails-For": "sessions"})
    assert nginx.lines(21)[-1] | {"status": 503, "cause": "sessions"} == nginx.lines(21)[-1]


@needs_nginx
def test_a_failure_is_printed_with_the_ids_that_it_is_found_by(nginx: Nginx) -> None:
    before = len(nginx.lines(0, nginx.output))
    trace = "ab" * 16
    asked = [f"00-{trace}-{'cd' * 8}-01", 'x" "y']
    for number, traceparent in enumerate(asked):
        nginx.share(50) if number else nginx.use()
        nginx.upstream.statuses |= {MODEL_PATH: [503] * 2, f"{MODEL_PATH}/{NEW}": [503] * 2}
        headers = {"X-User": "someone", "traceparent": traceparent}
        asked[number] = nginx.ask(headers=headers).headers["X-Request-Id"]
    nginx.upstream.statuses.clear()
    nginx.ask()
    lines = nginx.lines(before + 2, nginx.output)[before:]
    assert [line["request_ids"] for line in lines] == [[asked[0]], [asked[1]]]
    assert [line["trace_ids"] for line in lines] == [[trace], [""]]
    assert all(line["message"].startswith("503 for /predictions/recommend") for line in lines)
    assert "someone" not in nginx.output.read_text()


@needs_nginx
def test_a_shadow_gets_copies_and_its_failures_reach_nobody(nginx: Nginx) -> None:
    nginx.share(None)
    answer = nginx.ask(content=b'{"k": 2}')
    lines = nginx.lines(2)
    assert answer.json() == {"path": "/predictions/recommend", "body": '{"k": 2}'}
    assert sorted(nginx.upstream.paths) == [
        "/predictions/recommend", f"/predictions/recommend/{NEW}",
    ]  # fmt: skip
    assert {line["arm"] for line in lines} == {"production", "canary"}
    assert {line["status"] for line in lines} == {200}
    nginx.upstream.statuses[f"{MODEL_PATH}/{NEW}"] = [503, 500]
    assert nginx.ask().status_code == 200
    assert sorted(line["status"] for line in nginx.lines(4)) == [200, 200, 200, 500]
    assert nginx.ask(path="/shadow").status_code == 404


@needs_nginx
@pytest.mark.parametrize(
    ("share", "asked"),
    [(100, [f"/predictions/search/{NEW}"]),
     (None, ["/predictions/search", f"/predictions/search/{NEW}"])],
)  # fmt: skip
def test_a_trial_divides_and_copies_requests_of_its_own_kind_alone(
    nginx: Nginx, share: float | None, asked: list[str]
) -> None:
    nginx.share(share, "search")
    for path in (MODEL_PATH, MODEL_PATH, "/predictions/search"):
        assert nginx.ask(path=path).status_code == 200
    assert len(nginx.lines(len(asked))) == len(asked)
    assert sorted(nginx.upstream.paths) == [MODEL_PATH, MODEL_PATH, *asked]
