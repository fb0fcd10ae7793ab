"""A site's Kubernetes: k3s on its own machines, or a cluster that is already there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pulumi
import pulumi_kubernetes as kubernetes
import pulumi_random as random
from pulumi_command import remote

from infra import k3s


@dataclass(frozen=True)
class ClusterHost:
    """A machine, reached by SSH with a key of the running SSH agent and known by its host key."""

    address: str
    role: Literal["server", "agent"]
    user: str
    host_key: str
    port: int
    architecture: Literal["amd64", "arm64"]


@dataclass(frozen=True)
class PrivateClusterArgs:
    """Which cluster, and what is made in it.

    Parameters
    ----------
    namespaces
        Namespaces to make.
    kubeconfig
        A cluster that is there already; `hosts` is not looked at then.
    hosts
        Machines to install k3s on, the first server first.
    site
        Label of the nodes.
    releases
        What is installed, by processor architecture.
    bundle
        Folder with the files of `releases`, for hosts without internet.
    """

    namespaces: Sequence[str]
    kubeconfig: pulumi.Input[str] | None = None
    hosts: Sequence[ClusterHost] = ()
    site: str = ""
    releases: Mapping[str, k3s.Release] = field(default_factory=dict)
    bundle: Path | None = None


class PrivateCluster(pulumi.ComponentResource):
    """k3s servers and agents, and the namespaces.

    Tokens and kubeconfig are secrets: a token reaches a host on standard input only, and none of
    them is logged.

    Attributes
    ----------
    kubeconfig
        Access to the cluster. Secret.
    join_token
        What a machine must know to join as an agent, and to know the cluster by; None for a cluster
        that was there already. Secret.
    namespaces
        Names of the namespaces.
    """

    kubeconfig: pulumi.Output[str]
    join_token: pulumi.Output[str] | None
    namespaces: list[pulumi.Output[str]]

    def __init__(
        self, name: str, args: PrivateClusterArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("hybrid:infra:PrivateCluster", name, None, opts)
        self.join_token = None
        if args.kubeconfig is not None:
            self.kubeconfig = pulumi.Output.secret(args.kubeconfig)
        else:
            first, installed = self._install(name, args)
            kubeconfig = self._read(f"{name}-kubeconfig", k3s.KUBECONFIG, first, installed)
            self.kubeconfig = kubeconfig.apply(lambda text: k3s.reachable(text, first.address))
            self.join_token = self._read(f"{name}-join", k3s.JOIN_TOKEN, first, installed)
        provider = kubernetes.Provider(
            name, kubeconfig=self.kubeconfig, opts=pulumi.ResourceOptions(parent=self)
        )
        self.namespaces = [
            kubernetes.core.v1.Namespace(
                f"{name}-{namespace}",
                metadata={"name": namespace, "labels": NAMESPACE_LABELS},
                opts=pulumi.ResourceOptions(parent=self, provider=provider),
            ).metadata["name"]
            for namespace in args.namespaces
        ]
        self.register_outputs({"kubeconfig": self.kubeconfig, "namespaces": self.namespaces})

    def _install(
        self, name: str, args: PrivateClusterArgs
    ) -> tuple[ClusterHost, remote.Command]:
        """Install servers, the first one first, and agents; gives the first one's installation."""
        own, agents_own = (
            random.RandomPassword(
                f"{name}-{what}", length=48, special=False, opts=pulumi.ResourceOptions(parent=self)
            ).result
            for what in ("token", "agent-token")
        )
        tokens = {
            "server": pulumi.Output.secret(pulumi.Output.concat(own, "\n", agents_own, "\n")),
            "agent": pulumi.Output.secret(agents_own),
        }
        servers = [host for host in args.hosts if host.role == "server"]
        agents = [host for host in args.hosts if host.role == "agent"]
        first, first_install = servers[0], None
        last_install: remote.Command | None = None
        for host in [*servers, *agents]:
            config = k3s.configuration(
                host.role,
                address=host.address,
                site=args.site,
                join=None if host is first else first.address,
                high_availability=len(servers) > 1,
            )
            # Servers join one by one, since etcd takes one new member at a time; agents together.
            after = last_install if host.role == "server" else first_install
            installed = self._install_host(name, args, host, config, tokens[host.role], after)
            if host.role == "server":
                last_install = installed
            first_install = first_install or installed
        return first, first_install

    def _read(
        self, name: str, file: str, host: ClusterHost, installed: remote.Command
    ) -> pulumi.Output[str]:
        """Content of a file that k3s wrote, as a secret."""
        read = remote.Command(
            name,
            connection=_connection(host),
            create=k3s.as_root(f"cat {file}", host.user),
            logging=remote.Logging.NONE,
            triggers=[installed.id],
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[installed], additional_secret_outputs=["stdout"]
            ),
        )
        return pulumi.Output.secret(read.stdout)

    def _install_host(
        self,
        name: str,
        args: PrivateClusterArgs,
        host: ClusterHost,
        config: str,
        tokens: pulumi.Output[str],
        after: remote.Command | None,
    ) -> remote.Command:
        files = args.releases[host.architecture]
        # Made before anything is put on the host: an installation that fails or is cut off is not
        # in the state, and this is what takes it away then.
        removal = remote.Command(
            f"{name}-{host.address}-removal",
            connection=_connection(host),
            create=k3s.as_root("true", host.user),
            delete=k3s.as_root(k3s.uninstall_script(host.role, files), host.user),
            opts=pulumi.ResourceOptions(parent=self),
        )
        needed: list[pulumi.Resource] = [removal, *([after] if after else [])]
        if args.bundle is not None:
            needed += [
                remote.CopyToRemote(
                    f"{name}-{host.address}-{file.name}",
                    connection=_connection(host),
                    source=pulumi.FileAsset(str(args.bundle / file.name)),
                    remote_path=f"{k3s.STAGING}/{file.name}",
                    triggers=[file.sha256],
                    opts=pulumi.ResourceOptions(parent=self, depends_on=[removal]),
                )
                for file in files.files
            ]
        script = k3s.install_script(host.role, files, config, bundled=args.bundle is not None)
        return remote.Command(
            f"{name}-{host.address}",
            connection=_connection(host),
            create=k3s.as_root(script, host.user),
            stdin=tokens,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions(parent=self, depends_on=needed),
        )


def _connection(host: ClusterHost) -> remote.ConnectionArgs:
    return remote.ConnectionArgs(
        host=host.address, port=host.port, user=host.user, host_key=host.host_key
    )


# The strictest of Kubernetes' own Pod Security Standards.
NAMESPACE_LABELS = {
    "app.kubernetes.io/managed-by": "hybrid",
    "pod-security.kubernetes.io/enforce": "restricted",
}
