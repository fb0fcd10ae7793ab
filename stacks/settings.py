"""Settings of an environment: one YAML file, checked here, read by the stacks and by the CLI.

Pulumi is not imported here, since every command that touches an environment imports this module.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from datetime import date
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.network_plan import (
    LINK_LOCAL,
    PODS,
    SERVICES,
    NetworkPlanError,
    plan_subnets,
    require_disjoint,
)

PROJECT = Path(__file__).resolve().parent.parent
SHIPPED = Path(__file__).resolve().parent / "environments"
ENVIRONMENT_NAME = r"[a-z][a-z0-9-]{0,30}"

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")]
Port = Annotated[int, Field(ge=1024, le=65535)]
HttpAddress = Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _versioned(image: str) -> str:
    """The image, if its name does not mean another one tomorrow."""
    name, at, digest = image.partition("@")
    tag = name.rpartition("/")[2].partition(":")[2]
    if re.search(r"\s", image) or at and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise ValueError(f"{image!r} is no image: write NAME:VERSION, or NAME@sha256:… of its content")
    if not at and tag in ("", "latest"):
        raise ValueError(
            f"{image!r} names no version, so that it may be another image tomorrow: write "
            f"NAME:VERSION, or NAME@sha256:… of its content"
        )
    return image


# Of containers. A digest pins the content, a version is as good as whoever may push it again.
Image = Annotated[str, AfterValidator(_versioned)]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|Ki|Mi|Gi|Ti)?$")]


class SettingsError(Exception):
    """Settings that cannot be used; the sentence names file, key, value and what is allowed."""

    exit_code = 2


class _Section(BaseModel):
    # Sections are compiled once, within Settings, instead of each by itself as well: that halves
    # the time which every command waits for this module.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class Aws(_Section):
    """The AWS account; `endpoint` is an emulator's address (default in `local`: moto's port)."""

    account: Annotated[str, Field(pattern=r"^[0-9]{12}$")] | None = None
    endpoint: HttpAddress | None = None


class Gcp(_Section):
    """The GCP project; `endpoint` is an emulator's address (default in `local`: the gcs port)."""

    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
    location: str
    endpoint: HttpAddress | None = None


AzureId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]


class AzurePrincipal(_Section):
    """A service principal: the directory that knows it, its application's id and its own."""

    tenant: AzureId
    client: AzureId
    principal: AzureId


class Azure(_Section):
    """The Azure subscription, and as whom the cluster autoscaler resizes the scale set."""

    subscription: AzureId
    autoscaler: AzurePrincipal | None = None


class TorchServePorts(_Section):
    """Ports of TorchServe on this machine; `public` is the proxy's, where clients ask.

    Prometheus reads /metrics at `metrics`.
    """

    inference: Port
    management: Port
    grpc: Port
    metrics: Port
    public: Port


class Ports(_Section):
    """Ports on this machine, for `local`.

    `supernode` and `gateway` are the first site's; those of the next sites follow them.
    A real Kubernetes API also takes the two ports after its own.
    """

    moto: Port
    gcs: Port
    kubernetes: Port
    superlink: Port
    fleet: Port
    supernode: Port
    gateway: Port
    torchserve: TorchServePorts


class Host(_Section):
    """A machine of a site that runs k3s, reached by SSH with the keys of the running SSH agent."""

    address: str
    role: Literal["server", "agent"]
    architecture: Literal["amd64", "arm64"] = "amd64"
    host_key: Annotated[str, Field(pattern=r"^(ssh-ed25519|ecdsa-sha2-\S+|ssh-rsa) \S+$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: str = "root"


class SiteGateway(_Section):
    """A site's VPN gateway as `hybrid link` reaches it, by SSH like a host."""

    address: str
    host_key: Annotated[str, Field(pattern=r"^(ssh-ed25519|ecdsa-sha2-\S+|ssh-rsa) \S+$")]
    port: Annotated[int, Field(ge=1, le=65535)] = 22
    user: str = "root"


class Site(_Section):
    """One of your places: its network, the public address of its VPN gateway, its machines."""

    name: Name
    cidr: IPv4Network
    public_ip: IPv4Address
    gateway: SiteGateway | None = None
    hosts: tuple[Host, ...] = ()


class K3s(_Section):
    """Which k3s is installed, and what its files must hash to.

    `bundle` is a folder with install.sh, k3s-<architecture> and k3s-airgap-images-<architecture>
    .tar.zst, for hosts that cannot reach the internet.
    """

    version: Annotated[str, Field(pattern=r"^v[0-9]+\.[0-9]+\.[0-9]+\+k3s[0-9]+$")]
    installer_sha256: Sha256
    binary_sha256: dict[Literal["amd64", "arm64"], Sha256]
    images_sha256: dict[Literal["amd64", "arm64"], Sha256] = {}
    bundle: str | None = None


class Network(_Section):
    """Addresses of the VPC and of k3s, and how many NAT gateways there are."""

    vpc_cidr: IPv4Network
    nat: Literal["one", "per-zone"] = "one"
    amazon_asn: Annotated[int, Field(ge=64512, le=65534)] = 64512


class LinkSettings(_Section):
    """The VPN: AWS's own IPsec, or WireGuard on a gateway of ours, which the other keys describe.

    `echo` is a host in the VPC that answers pings, by which IPsec tunnels are measured.
    """

    driver: Literal["ipsec", "wireguard"] = "ipsec"
    echo: IPv4Address | None = None
    instance_type: str = "t4g.small"
    image_parameter: Annotated[str, Field(pattern=r"^/[\w./-]+$")] = (
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"
    )


class GpuPoolSettings(_Section):
    """The GPU machines: `spot_share` of those above `on_demand_base` are spot, from 0 to 1.

    `time_slices` pods share a GPU. Of `device_plugin_image` and `autoscaler_image`, what is named
    is deployed. Machines boot `image_parameter`, an SSM parameter, on AWS; else `image`.
    """

    cloud: Literal["aws", "gcp", "azure"] = "aws"
    instance_types: Annotated[tuple[str, ...], Field(min_length=1)]
    minimum: Annotated[int, Field(ge=0)] = 0
    maximum: Annotated[int, Field(ge=0)]
    on_demand_base: Annotated[int, Field(ge=0)] = 0
    spot_share: Annotated[float, Field(ge=0, le=1)] = 0.8
    volume_gib: Annotated[int, Field(ge=30, le=16384)] = 200
    image_parameter: Annotated[str, Field(pattern=r"^/[\w./-]+$")] | None = None
    image: str | None = None
    time_slices: Annotated[int, Field(ge=1, le=48)] = 1
    device_plugin_image: Image | None = None
    autoscaler_image: Image | None = None

    @model_validator(mode="after")
    def _bounds(self) -> GpuPoolSettings:
        if self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum} is above maximum {self.maximum}")
        if self.cloud == "aws" and self.image_parameter is None:
            raise ValueError("image_parameter is missing, which cloud 'aws' needs")
        if self.cloud != "aws" and self.image is None:
            raise ValueError(f"image is missing, which cloud {self.cloud!r} needs")
        if self.cloud == "azure" and self.image.count(":") != 3:
            raise ValueError(f"image is {self.image!r}, but must be publisher:offer:sku:version")
        if self.cloud != "aws" and len(self.instance_types) > 1:
            raise ValueError(f"instance_types has several, of which cloud {self.cloud!r} takes one")
        return self


class OnPremStore(_Section):
    """A server at the site that speaks S3, such as MinIO: what `onprem://bucket` means.

    `profile` is an AWS profile of whoever calls; it holds the keys, which stand in no settings.
    """

    endpoint: HttpAddress
    profile: str | None = None
    region: str = "us-east-1"


class ObjectStoreSettings(_Section):
    """Buckets: what becomes of old versions and old objects, whether `down` may delete them.

    `cold_days` after its last change an object goes to a cheaper class, kept as safely and read
    at once, but paid for by what is read; 0: never.
    """

    noncurrent_days: Annotated[int, Field(ge=1)] = 30
    cold_days: Annotated[int, Field(ge=0)] = 0
    unfinished_upload_days: Annotated[int, Field(ge=1)] = 7
    delete_with_data: bool = False
    onprem: OnPremStore | None = None

    @model_validator(mode="after")
    def _tiers(self) -> ObjectStoreSettings:
        if 0 < self.cold_days < 30:
            raise ValueError(
                f"cold_days is {self.cold_days}, but S3 keeps an object 30 days before it goes to "
                "a cold class: use 30 or more, or 0 for never"
            )
        return self


class ServingSettings(_Section):
    """TorchServe on Kubernetes: on the sites' own machines or on the GPU pool."""

    placement: Literal["private", "gpu-pool"] = "private"
    image: Image
    replicas: Annotated[int, Field(ge=1)] = 2
    cpu: Quantity = "1"
    memory: Quantity = "2Gi"


class LimitSettings(_Section):
    """What a client may ask of the service on this machine, and the memory of a worker.

    `client_header` tells clients apart, where something in front has checked it; without it their
    addresses do.
    """

    requests_per_second: Annotated[int, Field(ge=1)] = 1000
    burst: Annotated[int, Field(ge=0)] = 200
    request_bytes: Annotated[int, Field(ge=1024)] = 1_000_000
    client_header: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,60}$")] | None = None
    worker_memory_mb: Annotated[int, Field(ge=512)] = 4096


class SessionSettings(_Section):
    """What users did of late: how long and how much of it is kept, and in how much memory.

    `image` has Valkey, for Kubernetes; on this machine the one that is installed runs.
    """

    image: Image = "valkey/valkey:8.1-alpine"
    expiry_seconds: Annotated[int, Field(ge=1, le=30 * 86400)] = 86400
    events: Annotated[int, Field(ge=1, le=1000)] = 50
    memory_mb: Annotated[int, Field(ge=8)] = 64


class EventSettings(_Section):
    """Who may post what a user did, and ask with it: who has a token for that user, or with `none`
    anybody.

    `keys` are public Ed25519 keys, in base64, of those who sign tokens, such as a shop's back-end.
    """

    credential: Literal["token", "none"] = "token"
    keys: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9+/]{43}=$")], ...] = ()

    @property
    def anybody(self) -> bool:
        """Whether no token is asked for."""
        return self.credential == "none"


class TracingSettings(_Section):
    """Traces of commands and of what they ask, for a collector that speaks OTLP over HTTP.

    `share` of the other requests are traced too; those with a `traceparent` as that says.
    """

    endpoint: HttpAddress | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 0.01


class TowerSettings(_Section):
    """What a private site tells the cloud of its users: `nothing`, or a `vector` of each.

    `cloud` is asked then; vectors are cut to the length `clip`, and `noise` times that is the
    standard deviation of what is added to each number. No more than `most_vectors` of a user go.
    """

    shares: Literal["nothing", "vector"] = "nothing"
    cloud: HttpAddress | None = None
    clip: Annotated[float, Field(gt=0)] | None = None
    noise: Annotated[float, Field(ge=0)] = 0.0
    most_vectors: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _check(self) -> TowerSettings:
        if self.shares == "vector" and self.cloud is None:
            raise ValueError("cloud is missing: name the service that vectors go to")
        if self.noise and self.clip is None:
            raise ValueError("clip is missing: noise is measured by it")
        return self


class FederationSettings(_Section):
    """The Flower SuperLink on Kubernetes: its port there and the size of its state's volume.

    `removed_certificates` are serial numbers, in hexadecimal, of sites that are let in no more.
    """

    image: Image
    proxy_image: Image = "nginxinc/nginx-unprivileged:1.29-alpine"
    removed_certificates: tuple[Annotated[str, Field(pattern=r"^[0-9a-fA-F]{1,40}$")], ...] = ()
    port: Port = 8000
    storage: Quantity = "5Gi"
    cpu: Quantity = "1"
    memory: Quantity = "2Gi"


class TrainingSettings(_Section):
    """A training run on the GPU pool: `nodes` pods with a process for each of `gpus_per_node`.

    `storage_class` must allow volumes that several nodes mount at once.
    """

    image: Image
    data: str
    recipe: dict[str, bool | int | float | str] = {}
    shard_items: bool = False
    nodes: Annotated[int, Field(ge=1)] = 1
    gpus_per_node: Annotated[int, Field(ge=1)] = 1
    attempts: Annotated[int, Field(ge=0)] = 3
    storage: Quantity = "50Gi"
    storage_class: str | None = None
    cpu: Quantity = "4"
    memory: Quantity = "16Gi"


# The rules of infra/policy, whose modules are not imported before a plan is made.
class _TrainerSettings(_Section):
    """A managed trainer: `nodes` machines of one type, each with so many GPUs, for so long at most.

    `image` has this project's packages; with `spot` the machines may be taken away meanwhile.
    """

    image: Image
    machine: str
    nodes: Annotated[int, Field(ge=1)] = 1
    gpus_per_node: Annotated[int, Field(ge=1)] = 1
    spot: bool = True
    hours: Annotated[int, Field(ge=1, le=120)] = 24


class SageMakerSettings(_TrainerSettings):
    """Amazon SageMaker: the role that the machines act under, the disk of each."""

    kind: Literal["sagemaker"]
    role: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::[0-9]{12}:role/\S+$")]
    volume_gib: Annotated[int, Field(ge=1)] = 100


class VertexSettings(_TrainerSettings):
    """Google's Vertex AI, in the project of `gcp`: the GPUs' type, the machines' account and disk."""

    kind: Literal["vertex"]
    region: Annotated[str, Field(pattern=r"^[a-z]+-[a-z]+[0-9]+$")]
    accelerator: str
    service_account: str
    volume_gib: Annotated[int, Field(ge=1)] = 100


class AzureMlSettings(_TrainerSettings):
    """Azure Machine Learning: the workspace, its cluster of machines, the image as it knows it.

    `image` is the registered environment, NAME:VERSION; whether machines are spot is the cluster's.
    """

    kind: Literal["azureml"]
    image: Annotated[str, Field(pattern=r"^[^:\s]+:[^:\s]+$")]
    workspace: Annotated[
        str,
        Field(
            pattern=r"^/subscriptions/[0-9a-f-]{36}/resourceGroups/[^/\s]+"
            r"/providers/Microsoft\.MachineLearningServices/workspaces/[^/\s]+$"
        ),
    ]
    compute: str


TrainerSettings = SageMakerSettings | VertexSettings | AzureMlSettings


RuleName = Literal[
    "public-bucket",
    "open-ingress",
    "unencrypted-volume",
    "imds-v1",
    "wildcard-iam",
    "missing-tags",
    "no-budget",
    "gpu-maximum",
    "private-path",
]


class Waiver(_Section):
    """A rule that need not hold, up to and including a day, on resources of a name (or pattern)."""

    rule: RuleName
    resource: str
    until: date
    reason: Annotated[str, Field(min_length=10)]


class PolicySettings(_Section):
    """What the rules of infra/policy do here, where it is not their default."""

    severity: dict[RuleName, Literal["mandatory", "advisory", "off"]] = {}
    waivers: tuple[Waiver, ...] = ()


class Budget(_Section):
    """What an environment may cost a month, in US dollars; `up` goes no further."""

    monthly_usd: Annotated[float, Field(gt=0)]


class Settings(_Section):
    """Everything that differs between environments."""

    kind: Literal["local", "cloud"]
    backend: str | None = None
    model_store: str | None = None
    model_replicas: tuple[str, ...] = ()
    region: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]+$")]
    zones: Annotated[tuple[str, ...], Field(min_length=1, max_length=6)]
    aws: Aws = Aws()
    gcp: Gcp | None = None
    azure: Azure | None = None
    ports: Ports | None = None
    kubernetes: Literal["recorded", "real"] = "recorded"
    network: Network
    sites: Annotated[tuple[Site, ...], Field(min_length=1)]
    k3s: K3s | None = None
    link: LinkSettings = LinkSettings()
    gpu_pool: GpuPoolSettings
    object_stores: ObjectStoreSettings = ObjectStoreSettings()
    serving: ServingSettings
    limits: LimitSettings = LimitSettings()
    sessions: SessionSettings = SessionSettings()
    events: EventSettings = EventSettings()
    tower: TowerSettings = TowerSettings()
    tracing: TracingSettings = TracingSettings()
    federation: FederationSettings
    training: TrainingSettings | None = None
    trainer: Annotated[TrainerSettings, Field(discriminator="kind")] | None = None
    policy: PolicySettings = PolicySettings()
    budget: Budget | None = None

    @property
    def aws_endpoint(self) -> str | None:
        """Address of the AWS emulator; None for AWS itself."""
        return self.aws.endpoint or (self._local_address("moto") if self.ports else None)

    @property
    def gcp_endpoint(self) -> str | None:
        """Address of the GCS emulator; None for Google's."""
        named = self.gcp.endpoint if self.gcp else None
        return named or (self._local_address("gcs") if self.ports else None)

    @property
    def kubernetes_endpoint(self) -> str | None:
        """Address of this machine's recorded Kubernetes API; None where k3s brings its own."""
        return self._local_address("kubernetes") if self.ports else None

    @property
    def machines_join(self) -> bool:
        """Whether GPU machines become nodes of the first site's k3s; in `local` none ever boots."""
        return self.k3s is not None and self.gpu_pool.maximum > 0

    def gateway_ports(self) -> dict[str, int]:
        """Port of each site's gateway, for `local`."""
        first = self.ports.gateway if self.ports else 0
        return {site.name: first + number for number, site in enumerate(self.sites)}

    def supernode_ports(self) -> dict[str, int]:
        """Port of each site's SuperNode on this machine, by site name."""
        first = self.ports.supernode if self.ports else 0
        return {site.name: first + number for number, site in enumerate(self.sites)}

    def _local_address(self, part: str) -> str:
        return f"http://127.0.0.1:{getattr(self.ports, part)}"

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        names = [site.name for site in self.sites]
        if len(set(names)) != len(names):
            raise ValueError(f"sites must have different names, not {', '.join(names)}")
        self._check_place()
        if len(set(self.zones)) != len(self.zones):
            raise ValueError(f"zones must be different, not {', '.join(self.zones)}")
        try:
            plan_subnets(self.network.vpc_cidr, self.zones)
        except NetworkPlanError as error:
            raise ValueError(f"network.vpc_cidr: {error}") from None
        require_disjoint(self.networks())
        if self.link.echo and self.link.echo not in self.network.vpc_cidr:
            raise ValueError(
                f"link.echo is {self.link.echo}, which is not in network.vpc_cidr "
                f"{self.network.vpc_cidr}: name a host on the cloud's side that answers pings"
            )
        if self.training and self.training.nodes > self.gpu_pool.maximum:
            raise ValueError(
                f"training.nodes is {self.training.nodes}, but gpu_pool.maximum is "
                f"{self.gpu_pool.maximum}: the pods would wait for each other for ever"
            )
        if self.training and self.training.gpus_per_node > 1 and self.gpu_pool.time_slices > 1:
            raise ValueError(
                f"training.gpus_per_node is {self.training.gpus_per_node}, but with "
                f"gpu_pool.time_slices {self.gpu_pool.time_slices} a pod gets one slice of a GPU: "
                "set one of them to 1"
            )
        if isinstance(self.trainer, VertexSettings) and self.gcp is None:
            raise ValueError("gcp is missing, which trainer.kind 'vertex' needs: name the project")
        if self.kind == "local":
            self._check_local()
        else:
            self._check_cloud()
        return self

    def _check_place(self) -> None:
        """Region, zones and account in the way of the GPU machines' cloud."""
        cloud = self.gpu_pool.cloud
        region, pattern, example = {
            "aws": (r"[a-z]{2}(-[a-z]+)+-[0-9]", "[a-z]", f"{self.region}a"),
            "gcp": (r"[a-z]+-[a-z]+[0-9]+", "-[a-z]", f"{self.region}-a"),
            "azure": (r"[a-z0-9]+", None, "1"),
        }[cloud]
        if not re.fullmatch(region, self.region):
            raise ValueError(f"region is {self.region!r}, which is no region of cloud {cloud!r}")
        zone_pattern = "[1-3]" if pattern is None else self.region + pattern
        foreign = [zone for zone in self.zones if not re.fullmatch(zone_pattern, zone)]
        if foreign:
            raise ValueError(
                f"zones names {foreign[0]!r}, which is not a zone of region {self.region!r}: "
                f"use {example} and the like"
            )
        if cloud != "aws" and self.link.driver != "ipsec":
            raise ValueError(
                f"link.driver is {self.link.driver!r}, which only gpu_pool.cloud 'aws' has"
            )
        if cloud == "azure" and self.azure is None:
            raise ValueError("azure is missing: name the subscription")
        if cloud == "azure" and self.gpu_pool.autoscaler_image and self.azure.autoscaler is None:
            raise ValueError(
                "azure.autoscaler is missing, which gpu_pool.autoscaler_image needs: name tenant, "
                "client and principal of who may resize the scale set"
            )
        if cloud != "azure" and self.gcp is None:
            raise ValueError("gcp is missing: name the project and location of the GCS bucket")

    @property
    def serving_site(self) -> str | None:
        """The site at which models are served; None in the cloud. What is private stays there."""
        return self.sites[0].name if self.serving.placement == "private" else None

    def networks(self) -> dict[str, IPv4Network]:
        """Every network that takes part, by what it is called: none may overlap another."""
        sites = {f"sites.{number}.cidr": site.cidr for number, site in enumerate(self.sites)}
        fixed = {
            "k3s's pod network": PODS,
            "k3s's service network": SERVICES,
            "the link-local network": LINK_LOCAL,
        }
        return {"network.vpc_cidr": self.network.vpc_cidr} | sites | fixed

    def _check_local(self) -> None:
        if self.ports is None:
            raise ValueError("ports is missing, which kind 'local' needs")
        if self.gpu_pool.cloud != "aws":
            raise ValueError("gpu_pool.cloud must be 'aws' for kind 'local': it has its emulator")
        if any(site.hosts for site in self.sites):
            raise ValueError("sites with hosts need kind 'cloud': kind 'local' installs no k3s")
        torchserve = self.ports.torchserve.model_dump()
        used = self.ports.model_dump(exclude={"torchserve", "supernode", "gateway"})
        used |= {f"torchserve.{key}": port for key, port in torchserve.items()}
        if self.kubernetes == "real":
            used |= {f"kubernetes (+{n}, for etcd)": used["kubernetes"] + n for n in (1, 2)}
        used |= {f"supernode of {site}": port for site, port in self.supernode_ports().items()}
        used |= {f"gateway of {site}": port for site, port in self.gateway_ports().items()}
        owners: dict[int, str] = {}
        for key, port in used.items():
            if port in owners:
                raise ValueError(f"ports.{key} is {port}, which ports.{owners[port]} has already")
            owners[port] = key

    def _check_cloud(self) -> None:
        if self.ports is not None:
            raise ValueError("ports is only for kind 'local': leave it out")
        if self.kubernetes != "recorded":
            raise ValueError("kubernetes is only for kind 'local': kind 'cloud' installs k3s")
        if self.gpu_pool.cloud == "aws" and self.aws.account is None:
            raise ValueError(
                "aws.account is missing: name the 12-digit account, so that no other is changed"
            )
        if self.k3s is None:
            raise ValueError("k3s is missing, which kind 'cloud' needs")
        self._check_gpu_nodes(self.k3s)
        for number, site in enumerate(self.sites):
            servers = [host for host in site.hosts if host.role == "server"]
            if (site.hosts or number == 0) and len(servers) % 2 == 0:
                raise ValueError(
                    f"sites.{number}.hosts has {len(servers)} of role 'server': "
                    "k3s needs an odd number, 1 or 3, to keep a majority"
                )
            absent = {host.architecture for host in site.hosts} - set(self.k3s.binary_sha256)
            if absent:
                raise ValueError(f"k3s.binary_sha256 lacks {absent.pop()!r}, which a host has")

    def _check_gpu_nodes(self, k3s: K3s) -> None:
        pool = self.gpu_pool
        if not self.machines_join:
            return
        if "amd64" not in k3s.binary_sha256:
            raise ValueError("k3s.binary_sha256 lacks 'amd64', which the GPU machines are")
        if pool.device_plugin_image is None:
            raise ValueError(
                "gpu_pool.device_plugin_image is missing: without NVIDIA's device plugin no pod "
                "gets a GPU"
            )
        if pool.minimum < pool.maximum and pool.autoscaler_image is None:
            raise ValueError(
                f"gpu_pool.autoscaler_image is missing: nobody would go from {pool.minimum} to "
                f"{pool.maximum} machines"
            )


def home() -> Path:
    """Folder with one subfolder for each environment: $HYBRID_HOME, else .hybrid in the project."""
    return Path(os.environ.get("HYBRID_HOME") or PROJECT / ".hybrid").absolute()


def settings_folders() -> list[Path]:
    """Where settings files are looked for: first in the home, then among the shipped ones."""
    return [home() / "environments", SHIPPED]


def known_environments(folders: Sequence[Path] | None = None) -> list[str]:
    """Names of the environments that have a settings file."""
    found = {
        file.stem
        for folder in folders or settings_folders()
        for file in folder.glob("*.yaml")
        if re.fullmatch(ENVIRONMENT_NAME, file.stem)
    }
    return sorted(found)


def load_settings(environment: str, folders: Sequence[Path] | None = None) -> Settings:
    """Read and check the settings of an environment.

    Parameters
    ----------
    environment
        Its name: the file is ``<environment>.yaml`` in the first folder that has one.
    folders
        Where to look; :func:`settings_folders` by default.

    Raises
    ------
    SettingsError
        No such environment, or a file that cannot be used.
    """
    folders = list(folders or settings_folders())
    known = known_environments(folders)
    if environment not in known:
        raise SettingsError(
            f"There is no environment {environment!r}: there are {', '.join(known) or 'none'}. "
            f"Settings files are looked for in {' and '.join(map(str, folders))}."
        )
    files = (folder / f"{environment}.yaml" for folder in folders)
    return _read(next(file for file in files if file.exists()))


def _read(file: Path) -> Settings:
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{file} is not valid YAML{_yaml_problem(error)}.") from None
    if not isinstance(data, dict):
        raise SettingsError(f"{file} must hold keys and values, among them kind, region and zones.")
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        problems = (_sentence(problem) for problem in error.errors(include_url=False))
        raise SettingsError(f"{file}: " + "; ".join(problems) + ".") from None


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: {getattr(error, 'problem', None) or error}"


def _sentence(problem: Any) -> str:
    """What is wrong with one key, and what may stand there."""
    location = [part for part in problem["loc"] if part != "[key]"]
    key = ".".join(map(str, location))
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "extra_forbidden":
        allowed = ", ".join(_keys_at(location[:-1]))
        return f"{key} is not a setting; the keys allowed there are {allowed}"
    if problem["type"] == "value_error":
        return ": ".join(filter(None, [key, str(problem["ctx"]["error"])]))
    context = problem.get("ctx", {})
    allowed = problem["msg"].removeprefix("Input should be ")
    if problem["type"] == "literal_error":
        allowed = f"one of {context['expected'].replace(' or ', ', ')}"
    elif problem["type"] == "ip_v4_network":
        allowed = "a network that begins at its first address, such as 10.61.0.0/16"
    elif problem["type"] == "ip_v4_address":
        allowed = "an address such as 203.0.113.10"
    elif problem["type"] == "string_pattern_mismatch":
        allowed = f"text that matches {context['pattern']}"
    elif problem["type"] in ("model_type", "model_attributes_type"):
        allowed = f"a section with the keys {', '.join(_keys_at(location))}"
    return f"{key} is {problem['input']!r}, but must be {allowed}"


def _keys_at(location: Iterable[str | int]) -> list[str]:
    """Keys of the section at a place in the file."""
    section: Any = Settings
    for part in location:
        if isinstance(part, str):
            section = _section_in(section.model_fields[part].annotation)
    return list(section.model_fields)


def _section_in(annotation: Any) -> Any:
    """The section that a field's type is, or is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_in(inner) for inner in get_args(annotation))
    return next((section for section in found if section is not None), None)
