"""hybrid orphans"""

from __future__ import annotations

import click

from cli.application import Application
from cli.options import environment_argument, json_option


@click.command()
@environment_argument
@click.option("--remove", is_flag=True, help="Remove them, after a question.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before removing.")
@json_option
@click.pass_obj
def orphans(app: Application, environment: str, remove: bool, yes: bool, as_json: bool) -> None:
    """List what carries ENV's tags or names in its clouds but is in no state."""
    from cli.checkpoint import recorded_names
    from cli.engine import Engine
    from cli.lock import environment_lock
    from cli.preflight import require_account
    from cli.provision import require_emulators
    from cli.teardown import Teardown

    target = app.environment(environment)
    with environment_lock(target.folder, "hybrid orphans"), app.progress("orphans") as progress:
        require_account(target)
        require_emulators(target)
        Engine(target).prepare()
        teardown, recorded = Teardown.of(target, progress), recorded_names(target)
        places = teardown.places
        found = teardown.unrecorded(recorded)
        if remove and found:
            if not yes:
                for each in found:
                    app.say(str(each))
                app.ask_to_go_on(f"Remove these {len(found)}?")
            teardown.remove_unrecorded(recorded)
    if as_json:
        rows = [
            {"service": f.service, "kind": f.kind, "id": f.identity, "name": f.name} for f in found
        ]
        app.show_json({"environment": environment, "removed": remove, "orphans": rows})
    elif not found:
        click.echo(f"No orphans in {places}: all that is {environment}'s there is in its state.")
    else:
        app.show_table(
            ["service", "kind", "id", "name"],
            [[f.service, f.kind, f.identity, f.name] for f in found],
        )
        mend = "removed" if remove else f"in no state: remove with hybrid orphans {environment} --remove"
        click.echo(f"{len(found)} {mend}.")
