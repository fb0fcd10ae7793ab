"""hybrid site"""

from __future__ import annotations

from pathlib import Path

import click

from cli.application import Application
from cli.options import environment_option, json_option

package_option = click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Where the package for a remote site goes; NAME.tar.gz by default.",
)  # fmt: skip
proxy_option = click.option(
    "--proxy", metavar="HOST:PORT", callback=lambda ctx, param, value: _address(value),
    help="Where a remote site finds the federation's proxy.",
)  # fmt: skip


@click.group()
def site() -> None:
    """Enrol sites, give them new keys, cut them off; read the audit log."""


@site.command()
@click.argument("name")
@package_option
@proxy_option
@environment_option
@json_option
@click.pass_obj
def add(
    app: Application,
    name: str,
    output: Path | None,
    proxy: str | None,
    environment: str,
    as_json: bool,
) -> None:
    """Enrol site NAME. For one that is not in the settings, a package with its keys is written."""
    from cli import sites

    package = output or Path(f"{name}.tar.gz")
    written = sites.add(app.environment(environment), name, package, proxy)
    _show(app, name, "is enrolled", written, as_json)


@site.command()
@click.argument("name")
@package_option
@proxy_option
@environment_option
@json_option
@click.pass_obj
def rotate(
    app: Application,
    name: str,
    output: Path | None,
    proxy: str | None,
    environment: str,
    as_json: bool,
) -> None:
    """Give site NAME new keys. The old ones open nothing from then on."""
    from cli import sites

    package = output or Path(f"{name}.tar.gz")
    written = sites.rotate(app.environment(environment), name, package, proxy)
    _show(app, name, "has new keys", written, as_json)


@site.command()
@click.argument("name")
@environment_option
@click.pass_obj
def remove(app: Application, name: str, environment: str) -> None:
    """Cut site NAME off, at once and on open connections too. Its data stay where they are."""
    from cli import sites

    sites.remove(app.environment(environment), name)
    click.echo(f"Site {name} is removed: its certificate is revoked and its node key unknown.")


@site.command("list")
@environment_option
@json_option
@click.pass_obj
def list_(app: Application, environment: str, as_json: bool) -> None:
    """List the sites with their status, the end of their certificate, and when they were seen."""
    from dataclasses import asdict

    from cli import sites

    found = sites.overview(app.environment(environment))
    if as_json:
        app.show_json([asdict(each) for each in found])
        return
    app.show_table(
        ["site", "status", "certificate ends", "seen"],
        [[each.name, each.status, each.certificate_ends[:10], each.seen[:19]] for each in found],
    )


@site.command()
@click.option("--verify", is_flag=True, help="Check the whole log; exit code 1 if it is broken.")
@click.option("--noted", metavar="HASH",
              help="With --verify: a hash that an earlier check gave must still be there.")
@environment_option
@json_option
@click.pass_obj
def audit(
    app: Application, verify: bool, noted: str | None, environment: str, as_json: bool
) -> None:
    """Show the audit log: enrolments, removals, runs, rounds, promotions."""
    from dataclasses import asdict

    log = app.environment(environment).audit_log()
    if noted and not verify:
        raise click.UsageError("--noted goes with --verify only.")
    if verify:
        verdict = log.verify(noted)
        if as_json:
            app.show_json(asdict(verdict))
        else:
            click.echo(_told(verdict))
        if verdict.broken:
            raise SystemExit(1)
        return
    records = log.records()
    if as_json:
        app.show_json(records)
        return
    common = {"number", "time", "by", "event", "previous", "hash"}
    app.show_table(
        ["number", "time", "by", "event", "what"],
        [
            [record["number"], record["time"][:19], record["by"], record["event"],
             ", ".join(f"{k} {v}" for k, v in record.items() if k not in common and v)]
            for record in records
        ],
    )  # fmt: skip


def _address(value: str | None) -> str | None:
    if value is not None:
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise click.BadParameter(f"{value!r} is not HOST:PORT, such as proxy.example.com:8443.")
    return value


def _show(app: Application, name: str, what: str, package: Path | None, as_json: bool) -> None:
    if as_json:
        app.show_json({"site": name, "package": package})
        return
    told = "" if package is None else f" Hand it {package}, which holds its secret keys."
    click.echo(f"Site {name} {what}.{told}")


def _told(verdict) -> str:
    if verdict.broken:
        return f"The audit log is broken: {verdict.broken}"
    torn = " A crash cut its last line, which the next record repairs." if verdict.torn else ""
    return f"All {verdict.records} records hold; the last has the hash {verdict.head}.{torn}"
