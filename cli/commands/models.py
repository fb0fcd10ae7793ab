"""hybrid models"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_option, json_option


@click.command()
@environment_option
@json_option
@click.pass_obj
def models(app: Application, environment: str, as_json: bool) -> None:
    """List the stored models, the newest first, with their channels."""
    from dataclasses import asdict

    from cli.learning import environment_store, short_digest

    records = environment_store(app.environment(environment)).list()
    if as_json:
        app.show_json([asdict(record) for record in records])
        return
    app.show_table(
        ["model", "made by", "channels", "NDCG@10", "MB", "created"],
        [
            [
                short_digest(record.digest),
                record.lineage.get("made_by", ""),
                ", ".join(record.channels),
                f"{record.lineage.get('metrics', {}).get('NDCG@10', float('nan')):.4f}",
                f"{record.size / 1e6:.1f}",
                f"{record.created:%Y-%m-%d %H:%M}",
            ]
            for record in records
        ],
    )
