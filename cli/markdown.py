"""A plan as Markdown, for whoever reviews a pull request."""

from __future__ import annotations

from cli.changes import Change, LayerResult
from cli.planning import Assessment
from infra.cost import Cost
from infra.machine_groups import AZURE_GROUP
from infra.policy.review import Finding

NETWORK = "the whole network: every machine, gateway and tunnel in it"
MACHINES = "all GPU machines of the group and what runs on them"
# What goes with the old object when one of these is replaced or deleted.
LOST = {
    "aws:s3/bucket:Bucket": "all objects in it and their versions",
    "gcp:storage/bucket:Bucket": "all objects in it and their versions",
    "azure:storage/account:Account": "all objects in it and their versions",
    "gcp:compute/network:Network": NETWORK,
    "azure:network/virtualNetwork:VirtualNetwork": NETWORK,
    "azure:core/resourceGroup:ResourceGroup": "everything in the group, the object store included",
    "gcp:compute/instanceGroupManager:InstanceGroupManager": MACHINES,
    AZURE_GROUP: MACHINES,
    "gcp:compute/vPNTunnel:VPNTunnel": "the tunnel, until the site has the new address and key",
    "gcp:compute/haVpnGateway:HaVpnGateway": "all tunnels",
    "azure:network/virtualNetworkGateway:VirtualNetworkGateway": "all tunnels",
    "azure:network/virtualNetworkGatewayConnection:VirtualNetworkGatewayConnection":
        "both tunnels, until the site has the new key",
    "gcp:secretmanager/secret:Secret": "the secret's value and its versions",
    "azure:keyvault/keyVault:KeyVault": "the secrets in it and their versions",
    "aws:ec2/vpc:Vpc": NETWORK,
    "aws:ec2/subnet:Subnet": "the machines in it",
    "aws:ec2/natGateway:NatGateway": "open connections of the private subnets",
    "aws:ec2/eip:Eip": "the public address, which others may have allowed",
    "aws:ec2/vpnGateway:VpnGateway": "all tunnels",
    "aws:ec2/vpnConnection:VpnConnection":
        "both tunnels, until the site has the new addresses and keys",
    "aws:ec2/customerGateway:CustomerGateway": "the site's tunnels while its connection moves",
    "aws:autoscaling/group:Group": MACHINES,
    "aws:ec2/instance:Instance": "the machine and its disk, with a WireGuard gateway's keys",
    "aws:iam/role:Role": "the identity of running machines",
    "aws:secretsmanager/secret:Secret": "the secret's value and its versions",
    "kubernetes:core/v1:Namespace": "everything in the namespace, volumes included",
    "kubernetes:core/v1:PersistentVolumeClaim": "the data on the volume",
    "kubernetes:apps/v1:Deployment": "running pods: an interruption",
    "kubernetes:core/v1:Service": "the address that clients use",
    "random:index/randomPassword:RandomPassword":
        "the secret: whoever holds the old one is refused",
    "tls:index/privateKey:PrivateKey": "the key: what trusted it must trust the new one",
    "tls:index/selfSignedCert:SelfSignedCert": "the certificate that the sites trust",
    "command:remote:Command": "what the command set up on the host: its delete command runs",
}  # fmt: skip


def plan_markdown(environment: str, results: list[LayerResult], assessment: Assessment) -> str:
    """A section a layer, what is lost first; then the policies and the costs."""
    lines = [f"## `hybrid preview {environment}`", ""]
    lost = [(c, LOST[c.type]) for r in results for c in r.changes
            if c.operation in ("replace", "delete") and c.type in LOST]  # fmt: skip
    if lost:
        lines += ["### What is lost", ""]
        lines += [f"- **{c.operation}** {c.layer} / {c.name}: {what}{_why(c)}" for c, what in lost]
        lines.append("")
    for result in results:
        lines += _layer(result)
    lines += _policies(assessment.findings)
    lines += _costs(assessment.before, assessment.after)
    if assessment.over_budget:
        lines += [f"**{assessment.over_budget}**", ""]
    return "\n".join([*lines, assessment.round])


def _layer(result: LayerResult) -> list[str]:
    lines = [f"### {result.layer}: {len(result.changes)} of {result.resources} change", ""]
    if not result.changes:
        return lines
    lines += ["| operation | type | name | properties |", "| --- | --- | --- | --- |"]
    risky = ("replace", "delete")
    for change in sorted(result.changes, key=lambda change: change.operation not in risky):
        operation = change.operation
        shown = f"**{operation}**" if operation in risky else operation
        properties = ", ".join(f"`{path}`" for path in change.properties)
        lines.append(f"| {shown} | `{change.type}` | {change.name} | {properties} |")
    return [*lines, ""]


def _why(change: Change) -> str:
    if not change.replacing:
        return ""
    return f" (because of {', '.join(f'`{path}`' for path in change.replacing)})"


def _policies(findings: list[Finding]) -> list[str]:
    if not findings:
        return ["### Policies: all hold", ""]
    blocking = sum(finding.blocks for finding in findings)
    lines = [f"### Policies: {len(findings)} violations, {blocking} stop `hybrid up`", ""]
    lines += ["| rule | severity | resource | violation |", "| --- | --- | --- | --- |"]
    for finding in findings:
        shown = f"**{finding.rule}**" if finding.blocks else finding.rule
        told = finding.told.replace("|", "\\|")
        lines.append(f"| {shown} | {finding.severity} | {finding.resource} | {told} |")
    return [*lines, ""]


def _costs(before: Cost, after: Cost) -> list[str]:
    """What a month costs before and after, and the items that change."""
    change = f"{before.low:.2f} to {before.high:.2f} → {after.low:.2f} to {after.high:.2f} USD"
    lines = [f"### A month: {change}", ""]
    kept = set(before.items) & set(after.items)
    rows = [(item, "−") for item in before.items if item not in kept]
    rows += [(item, "+") for item in after.items if item not in kept]
    if rows:
        lines += ["| | resource | what | USD a month |", "| --- | --- | --- | --- |"]
    for item, sign in rows:
        lines.append(f"| {sign} | {item.name} | {item.what} | {item.month} |")
    return [*lines, ""] if rows else lines
