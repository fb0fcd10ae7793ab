"""`down` after a crash at any call that `up` makes to hosts and to Kubernetes leaves nothing there.

Hosts are stand-ins: an installation puts k3s on one, and the recorded API is the cluster, which
goes with the first one's. `make test-teardown` cuts after every single call; the suite after one
of each kind.
"""

from __future__ import annotations

import os
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
import yaml

from infra import k3s
from infra.offline import command
from infra.offline.kubernetes import Cluster
from infra.offline.kubernetes_api import application
from infra.offline.resource import Request, ResourceType
from stacks.settings import SHIPPED, load_settings
from tests.journeys.cuts import Cloud, Step, steps_of

EVERY = bool(os.environ.get("HYBRID_EVERY_CUT"))
FIRST = "10.71.0.11"
PACKAGES = ("command", "kubernetes", "random", "tls")
# Outputs of layer `cloud` that layer `platform` reads.
CLOUD = {"token_secret": "arn", "autoscaler_key": {"id": "AKIA", "secret": "none"}}


class Site:
    """Machines by address, and what is on each; `objects` is the folder of the cluster's API."""

    def __init__(self, folder: Path, api: str) -> None:
        self.objects, self.kept = folder / "objects", folder / "kept"
        self.hosts: dict[str, str] = {}
        self.called: Callable[[str], None] = lambda call: None
        self._files = {k3s.KUBECONFIG: kubeconfig(api), k3s.JOIN_TOKEN: "K10hash::token"}

    def commands(self) -> ResourceType:
        """Commands on these machines, in place of SSH."""

        def create(api: None, request: Request) -> tuple[str, dict]:
            machine = request.inputs["connection"]["host"]
            script = request.inputs.get("create", "")
            installs = "INSTALL_K3S_EXEC" in script
            if installs:
                self.hosts[machine] = "k3s"
            read = [text for file, text in self._files.items() if f"cat {file}" in script]
            self.called("host:install" if installs else "host:read" if read else "host:nothing")
            return request.mark, {"stdout": "".join(read), "stderr": ""}

        def delete(api: None, identity: str, state: dict) -> None:
            machine = state["connection"]["host"]
            if "uninstall.sh" in state.get("delete", ""):
                self.hosts.pop(machine, None)
                if machine == FIRST:
                    shutil.rmtree(self.objects)

        return ResourceType(create=create, read=lambda api, identity, state: {}, delete=delete)

    def objects_left(self) -> list[str]:
        """Objects but the API's own, as files below its folder."""
        own = ("namespaces/_cluster/default.json", "namespaces/_cluster/kube-system.json")
        files = [str(file.relative_to(self.objects)) for file in self.objects.glob("*/*/*/*.json")]
        return [file for file in files if not file.endswith(own)]

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Let hosts and objects be afterwards as they are now."""
        hosts, called = dict(self.hosts), self.called
        self.called = lambda call: None
        shutil.copytree(self.objects, self.kept)
        yield
        shutil.rmtree(self.objects, ignore_errors=True)
        self.kept.rename(self.objects)
        self.hosts, self.called = hosts, called


def kubeconfig(server: str) -> str:
    named = {"clusters": "cluster", "users": "user", "contexts": "context"}
    content = {"cluster": {"server": server}, "user": {}, "context": {"cluster": "k", "user": "k"}}
    entries = {plural: [{"name": "k", one: content[one]}] for plural, one in named.items()}
    return yaml.safe_dump(entries | {"current-context": "k"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The first site of the shipped example; each call to its hosts and API is told to it."""
    folder = tmp_path_factory.mktemp("site")
    original = Cluster.call
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.MonkeyPatch.context() as patch:
        site = Site(folder, f"http://127.0.0.1:{listener.getsockname()[1]}")
        server = uvicorn.Server(
            uvicorn.Config(application(site.objects), log_level="warning", lifespan="off")
        )
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()

        def call(cluster: Cluster, method: str, path: str, **options):
            answer = original(cluster, method, path, **options)
            site.called(f"{method} {path.split('/')[-2]}")
            return answer

        patch.setattr(Cluster, "call", call)
        patch.setitem(command.TYPES, "command:remote:Command", site.commands())
        yield site
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def up(site: Site) -> tuple[list[Step], Cloud]:
    """The steps of `up`; hosts and cluster are empty again."""
    settings = load_settings("production", [SHIPPED])
    settings = settings.model_copy(update={"sites": settings.sites[:1]})
    with site.put_back():
        steps, cloud = steps_of(settings, ("private", "platform"), PACKAGES, {}, CLOUD)
    cloud.recorded.clear()
    assert site.objects_left() == [*site.hosts] == []
    return steps, cloud


def torn_down(site: Site, cloud: Cloud, in_work: Step) -> list[str]:
    """What the engine does in `down`; what it leaves."""
    recorded = list(cloud.recorded)
    with site.put_back():
        cloud.restart()
        cloud.destroy("platform")
        # What was in work is in no state: it goes with its namespace, or else with the cluster.
        known = {"site-berlin.json", f"{in_work.inputs.get('metadata', {}).get('name')}.json"}
        strange = [each for each in site.objects_left() if Path(each).name not in known]
        cloud.destroy()
        left = strange + site.objects_left() + [*site.hosts]
    cloud.recorded[:] = recorded
    return left


def test_down_leaves_nothing_wherever_up_was_cut(site, up, capsys):
    steps, cloud = up
    seen: Counter[str] = Counter()
    left: dict[str, list[str]] = {}

    with pytest.MonkeyPatch.context() as patch:
        for step in steps:

            def cut(call: str, step: Step = step) -> None:
                seen[call] += 1
                if EVERY or seen[call] == 1:
                    left[f"{call} {seen[call]}"] = torn_down(site, cloud, step)

            patch.setattr(site, "called", cut)
            cloud.make(step)
    with capsys.disabled():
        bad = sum(bool(each) for each in left.values())
        print(f"\n{len(left)} cut points of {seen.total()} calls, residue after {bad}")
    assert len(left) == (seen.total() if EVERY else len(seen)) > 20
    assert {cut: found for cut, found in left.items() if found} == {}
