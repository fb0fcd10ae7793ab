"""An `up` of eight resources beside Terraform's apply of the same: `python -m benchmarks.provision`.

VPC, subnet, bucket, customer and VPN gateway, VPN connection, launch template and autoscaling group
on a moto server of this machine, empty at first: by the engine with the offline plugin, and by
Terraform with its AWS provider where a `terraform` is on PATH. `--provider-mirror FOLDER` names a
folder with the provider, for machines that do not reach its registry. Times are wall time of
`pulumi up --skip-preview` and of `terraform apply`, medians of several runs; what is prepared once
(stacks, plugins, `terraform init`) is not in them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.sync import moto
from cli.environment import engine_root
from infra.offline.install import install

REGION = "us-east-1"
SERVICES = ("autoscaling", "ec2", "iam", "s3", "sts")
PROGRAM = """
import os
import pulumi
import pulumi_aws as aws

endpoint = os.environ["MOTO"]
provider = aws.Provider(
    "aws", region="{region}", access_key="test", secret_key="test",
    endpoints=[dict.fromkeys({services}, endpoint)], s3_use_path_style=True,
    skip_credentials_validation=True, skip_metadata_api_check=True,
    skip_requesting_account_id=True,
)
own = pulumi.ResourceOptions(provider=provider)
vpc = aws.ec2.Vpc("bench", cidr_block="10.0.0.0/16", opts=own)
subnet = aws.ec2.Subnet(
    "bench", vpc_id=vpc.id, cidr_block="10.0.1.0/24", availability_zone="{region}a", opts=own
)
aws.s3.Bucket("bench", opts=own)
customer = aws.ec2.CustomerGateway(
    "bench", bgp_asn="65000", ip_address="203.0.113.10", type="ipsec.1", opts=own
)
gateway = aws.ec2.VpnGateway("bench", vpc_id=vpc.id, opts=own)
aws.ec2.VpnConnection(
    "bench", vpn_gateway_id=gateway.id, customer_gateway_id=customer.id, type="ipsec.1",
    static_routes_only=True, opts=own,
)
template = aws.ec2.LaunchTemplate(
    "bench", image_id="ami-12c6146b", instance_type="g5.xlarge", opts=own
)
aws.autoscaling.Group(
    "bench", min_size=0, max_size=2, vpc_zone_identifiers=[subnet.id],
    launch_template={{"id": template.id, "version": "$Latest"}}, opts=own,
)
"""
TERRAFORM = """
terraform {{
  required_providers {{
    aws = {{ source = "hashicorp/aws" }}
  }}
}}
provider "aws" {{
  region                      = "{region}"
  access_key                  = "test"
  secret_key                  = "test"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
  endpoints {{
    {endpoints}
  }}
}}
resource "aws_vpc" "bench" {{ cidr_block = "10.0.0.0/16" }}
resource "aws_subnet" "bench" {{
  vpc_id            = aws_vpc.bench.id
  cidr_block        = "10.0.1.0/24"
  availability_zone = "{region}a"
}}
resource "aws_s3_bucket" "bench" {{}}
resource "aws_customer_gateway" "bench" {{
  bgp_asn    = 65000
  ip_address = "203.0.113.10"
  type       = "ipsec.1"
}}
resource "aws_vpn_gateway" "bench" {{ vpc_id = aws_vpc.bench.id }}
resource "aws_vpn_connection" "bench" {{
  vpn_gateway_id      = aws_vpn_gateway.bench.id
  customer_gateway_id = aws_customer_gateway.bench.id
  type                = "ipsec.1"
  static_routes_only  = true
}}
resource "aws_launch_template" "bench" {{
  image_id      = "ami-12c6146b"
  instance_type = "g5.xlarge"
}}
resource "aws_autoscaling_group" "bench" {{
  min_size            = 0
  max_size            = 2
  vpc_zone_identifier = [aws_subnet.bench.id]
  launch_template {{
    id      = aws_launch_template.bench.id
    version = "$Latest"
  }}
}}
"""


def run(command: list[str], folder: Path, variables: dict[str, str]) -> float:
    """Run a command; its seconds."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return time.perf_counter() - start


def forget(endpoint: str) -> None:
    """Empty the emulator."""
    urllib.request.urlopen(
        urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST"), timeout=30
    ).close()


def engine(folder: Path, endpoint: str, runs: int) -> list[float]:
    """Seconds of each `up` by the engine."""
    pulumi, own_bin = engine_root() / "bin" / "pulumi", Path(sys.executable).parent
    for name in ("state", "home", "project"):
        (folder / name).mkdir()
    project = folder / "project"
    (project / "Pulumi.yaml").write_text("name: bench\nruntime: python\n")
    (project / "__main__.py").write_text(PROGRAM.format(region=REGION, services=SERVICES))
    install(pulumi, folder / "home")
    variables = os.environ | {
        "PATH": os.pathsep.join([str(own_bin), str(pulumi.parent), os.environ["PATH"]]),
        "PULUMI_HOME": str(folder / "home"),
        "PULUMI_BACKEND_URL": f"file://{folder / 'state'}",
        "PULUMI_CONFIG_PASSPHRASE": "of the benchmark",
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "MOTO": endpoint,
    }
    seconds = []
    for number in range(runs):
        forget(endpoint)
        run([str(pulumi), "stack", "init", f"run-{number}"], project, variables)
        command = [str(pulumi), "up", "--yes", "--skip-preview", "--non-interactive"]
        seconds.append(run(command, project, variables))
        made = subprocess.run(
            [str(pulumi), "stack", "export"], cwd=project, env=variables, capture_output=True
        )
        kinds = [each["type"] for each in json.loads(made.stdout)["deployment"]["resources"]]
        assert sum(kind.startswith("aws:") for kind in kinds) == 8, kinds
    return seconds


def terraform(folder: Path, endpoint: str, runs: int, mirror: Path | None) -> list[float]:
    """Seconds of each apply by Terraform; none where it is not installed."""
    program = shutil.which("terraform")
    if program is None:
        return []
    endpoints = "\n".join(f'{service} = "{endpoint}"' for service in SERVICES)
    text = TERRAFORM.format(region=REGION, endpoints=endpoints)
    variables = {k: v for k, v in os.environ.items() if k != "TF_CLI_CONFIG_FILE"}
    variables |= {"CHECKPOINT_DISABLE": "1"}
    seconds = []
    for number in range(runs):
        forget(endpoint)
        project = folder / f"terraform-{number}"
        project.mkdir()
        (project / "main.tf").write_text(text)
        wanted = [f"-plugin-dir={mirror}"] if mirror else []
        init = [program, "init", "-input=false", "-no-color", *wanted]
        if subprocess.run(init, cwd=project, env=variables, capture_output=True).returncode != 0:
            print("terraform finds no AWS provider: name a folder by --provider-mirror")
            return []
        command = [program, "apply", "-auto-approve", "-input=false"]
        seconds.append(run(command, project, variables))
    return seconds


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--provider-mirror", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hybrid-bench-") as scratch, moto() as endpoint:
        ours = engine(Path(scratch), endpoint, arguments.runs)
        theirs = terraform(Path(scratch), endpoint, arguments.runs, arguments.provider_mirror)
    table = Table("eight resources", "seconds", "runs")
    table.add_row("engine, offline plugin", f"{statistics.median(ours):.1f}", str(len(ours)))
    if theirs:
        table.add_row("terraform apply", f"{statistics.median(theirs):.1f}", str(len(theirs)))
    console = Console()
    console.print(table)
    if theirs:
        console.print(f"ratio {statistics.median(ours) / statistics.median(theirs):.2f}")
    else:
        console.print("No terraform that works is on PATH: there is nothing to compare with.")


if __name__ == "__main__":
    main()
