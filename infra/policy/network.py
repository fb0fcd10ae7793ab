"""Rules on who can reach what."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any

from infra.offline.wire import UNKNOWN
from infra.policy.rule import Problem, at, listed, of_type, refers_to, revealed
from infra.policy.storage import GCS_BUCKET, S3_BUCKETS, public_bucket
from infra.resources import Declared

# Whoever reaches one of these can run code: a shell, TorchServe's management API.
GUARDED = {22: "SSH", 8081: "TorchServe's management port"}
RESIDENCY = ("hybrid:residency", "hybrid-residency", "hybrid/residency")
OUTSIDE = ("LoadBalancer", "NodePort")


def open_ingress(resources: Sequence[Declared], settings: Any) -> Iterator[Problem]:
    """Guarded ports that the whole internet, or every pod, can reach."""
    for resource in resources:
        for cidrs, protocol, first, last in _firewall_rules(resource):
            cidr = next((cidr for cidr in cidrs if _everywhere(cidr)), None)
            for port, what in GUARDED.items():
                if cidr is not None and _covers(protocol, first, last, port):
                    yield Problem(resource, f"{what} ({port}) is open to {cidr}")
    for service in of_type(resources, "kubernetes:core/v1:Service"):
        for entry in listed(at(service.inputs, "spec.ports")):
            ports = {at(entry, "port"), at(entry, "targetPort")} - {UNKNOWN}
            for port, what in GUARDED.items():
                if port in ports and at(service.inputs, "spec.type") in OUTSIDE:
                    yield Problem(service, f"{what} ({port}) is reachable from outside the cluster")
    for policy in of_type(resources, "kubernetes:networking.k8s.io/v1:NetworkPolicy"):
        for rule in listed(at(policy.inputs, "spec.ingress")):
            peers = [at(p, "ipBlock.cidr") for p in listed(at(rule, "from"))]
            if peers and not any(_everywhere(cidr) for cidr in peers):
                continue
            ports = [at(entry, "port") for entry in listed(at(rule, "ports"))]
            for port, what in GUARDED.items():
                if port in ports or not ports:
                    yield Problem(policy, f"{what} ({port}) is open to everybody")


def private_path(resources: Sequence[Declared], settings: Any) -> Iterator[Problem]:
    """Ways from the internet to what is labelled private, or to private subnets."""
    private = [resource for resource in resources if _residency(resource) == "private"]
    names = {resource.urn for resource in private}
    for problem in public_bucket(resources, settings):
        if problem.resource is not None and problem.resource.urn in names:
            yield Problem(problem.resource, f"it holds private data, and {problem.sentence}")
    for resource in private:
        if resource.type in (*S3_BUCKETS, GCS_BUCKET):
            for site in resources:
                if "Website" in site.type and refers_to(site, "bucket", resource):
                    yield Problem(resource, f"it holds private data, and {site.name} publishes it")
        elif at(resource.inputs, "spec.type") in OUTSIDE:
            sources = listed(at(resource.inputs, "spec.loadBalancerSourceRanges"))
            if not sources or any(map(_everywhere, sources)):
                yield Problem(resource, "it serves private data to everybody outside the cluster")
        for cidrs, *_ in _firewall_rules(resource):
            if any(map(_everywhere, cidrs)):
                yield Problem(resource, "it lets the whole internet in to private data")
    for subnet in of_type(resources, "aws:ec2/subnet:Subnet"):
        name = at(subnet.inputs, "tags.Name")
        if "-private-" in str(name) and subnet.inputs.get("mapPublicIpOnLaunch") is True:
            yield Problem(subnet, "machines of this private subnet get public addresses")
    for route in of_type(resources, "aws:ec2/route:Route"):
        # NAT lets nobody in; a gateway of the internet does.
        if "-private-" in route.name and _through_internet_gateway(route):
            yield Problem(route, "it leads from a private subnet straight to an internet gateway")


def _through_internet_gateway(route: Declared) -> bool:
    """The engine shows a property that is not set as unknown: what it depends on tells."""
    if route.inputs.get("gatewayId") in (None, UNKNOWN):
        sources = route.sources.get("gatewayId", ())
        return any("aws:ec2/internetGateway:" in urn for urn in sources)
    return True


def _residency(resource: Declared) -> Any:
    for place in ("tags", "labels", "metadata.labels"):
        labels = at(resource.inputs, place)
        for key in RESIDENCY if isinstance(labels, dict) else ():
            if key in labels:
                return labels[key]
    return None


def _firewall_rules(resource: Declared) -> Iterator[tuple[list[Any], Any, Any, Any]]:
    """Inbound rules: networks, protocol, first and last port."""
    inputs, kind = resource.inputs, resource.type
    if kind == "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule":
        cidrs = [inputs.get("cidrIpv4"), inputs.get("cidrIpv6")]
        yield cidrs, inputs.get("ipProtocol"), inputs.get("fromPort"), inputs.get("toPort")
    elif kind == "aws:ec2/securityGroupRule:SecurityGroupRule" and inputs.get("type") == "ingress":
        yield _inline(inputs)
    elif kind == "aws:ec2/securityGroup:SecurityGroup":
        for rule in listed(inputs.get("ingress")):
            yield _inline(rule)
    elif kind == "gcp:compute/firewall:Firewall" and inputs.get("direction") != "EGRESS":
        cidrs = listed(inputs.get("sourceRanges"))
        for rule in listed(inputs.get("allows")):
            for ports in listed(at(rule, "ports")) or ["0-65535"]:
                first, _, last = str(ports).partition("-")
                yield cidrs, at(rule, "protocol"), int(first), int(last or first)
    elif kind == "azure:network/networkSecurityRule:NetworkSecurityRule":
        yield from _of_azure(inputs)
    elif kind == "azure:network/networkSecurityGroup:NetworkSecurityGroup":
        for rule in listed(inputs.get("securityRules")):
            yield from _of_azure(revealed(rule))


def _of_azure(rule: dict[str, Any]) -> Iterator[tuple[list[Any], Any, Any, Any]]:
    if rule.get("direction") != "Inbound" or rule.get("access") != "Allow":
        return
    sources = [*listed(rule.get("sourceAddressPrefix")), *listed(rule.get("sourceAddressPrefixes"))]
    cidrs = ["0.0.0.0/0" if source in ("*", "Internet") else source for source in sources]
    ports = [*listed(rule.get("destinationPortRange")), *listed(rule.get("destinationPortRanges"))]
    for text in (str(port).replace("*", "0-65535") for port in ports):
        first, _, last = text.partition("-")
        if first.isdigit():
            yield cidrs, rule.get("protocol"), int(first), int(last or first)


def _inline(rule: Any) -> tuple[list[Any], Any, Any, Any]:
    cidrs = listed(at(rule, "cidrBlocks")) + listed(at(rule, "ipv6CidrBlocks"))
    return cidrs, at(rule, "protocol"), at(rule, "fromPort"), at(rule, "toPort")


def _covers(protocol: Any, first: Any, last: Any, port: int) -> bool:
    if str(protocol).lower() in ("-1", "all", "*"):
        return True
    known = isinstance(first, (int, float)) and isinstance(last, (int, float))
    return str(protocol).lower() == "tcp" and known and first <= port <= last


def _everywhere(cidr: Any) -> bool:
    if not isinstance(cidr, str):
        return False
    try:
        return ip_network(cidr, strict=False).prefixlen == 0
    except ValueError:
        return False
