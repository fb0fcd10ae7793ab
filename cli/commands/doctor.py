"""hybrid doctor"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument, json_option


@click.command()
@environment_argument
@json_option
@click.pass_obj
def doctor(app: Application, environment: str, as_json: bool) -> None:
    """Tell what this machine or ENV's GPU pool lacks, and what mends it; exit code 1 if any."""
    from dataclasses import asdict

    from cli.diagnosis import diagnose

    findings = diagnose(app.environment(environment))
    if as_json:
        app.show_json([asdict(finding) for finding in findings])
    else:
        app.show_table(
            ["", "what", "found", "mend with"],
            [["ok" if f.ok else "NO", f.subject, f.detail, "" if f.ok else f.mend] for f in findings],
        )
    if not all(finding.ok for finding in findings):
        raise SystemExit(1)
