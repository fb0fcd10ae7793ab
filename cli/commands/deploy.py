"""hybrid deploy"""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from cli.application import Application
from cli.options import FiniteRange, environment_option, json_option
from cli.serving_client import OTHER_KINDS, RECOMMEND


class Share(click.ParamType):
    """Per cent of the users, such as 10%."""

    name = "share"

    def convert(self, value, param, ctx):
        try:
            share = round(float(str(value).strip().removesuffix("%")), 2)
        except ValueError:
            share = 0.0
        if not 0 < share <= 100:
            self.fail(f"{value!r} is no share above 0 % and up to 100 %, such as 10%.", param, ctx)
        return share


@click.command()
@click.argument("model", required=False)
@click.option("--canary", type=Share(), metavar="SHARE",
              help="Only for this share of the users at first, such as 10%.")  # fmt: skip
@click.option("--shadow", is_flag=True,
              help="Only copies of requests go to it; its answers are dropped.")  # fmt: skip
@click.option("--watch", is_flag=True, help="Go on watching the trial that is on.")
@click.option("--detach", is_flag=True, help="Begin a trial and do not watch it.")
@click.option("--promote", is_flag=True, help="Put the model on trial into production.")
@click.option("--abort", is_flag=True, help="Take the model on trial back.")
@click.option("--rollback", is_flag=True, help="Put the model before into production again.")
@click.option("--kind", type=click.Choice([RECOMMEND, *OTHER_KINDS]), default=RECOMMEND,
              show_default=True, help="Of which kind, for --rollback.")  # fmt: skip
@click.option("--edge", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write a bundle that serves it elsewhere, and deploy nothing.")  # fmt: skip
@click.option("--margin", type=FiniteRange(0.01, 50), default=1.0, show_default=True,
              help="Percentage points by which a rate may be worse.")  # fmt: skip
@click.option("--slow-after", type=FiniteRange(0, min_open=True), default=0.1,
              show_default=True, help="Seconds after which an answer is slow.")  # fmt: skip
@click.option("--click-window", type=FiniteRange(0, min_open=True), default=300.0,
              show_default=True, help="Seconds within which a click counts.")  # fmt: skip
@environment_option
@json_option
@click.pass_obj
def deploy(
    app: Application,
    model: str | None,
    canary: float | None,
    shadow: bool,
    watch: bool,
    detach: bool,
    promote: bool,
    abort: bool,
    rollback: bool,
    kind: str,
    edge: Path | None,
    margin: float,
    slow_after: float,
    click_window: float,
    environment: str,
    as_json: bool,
) -> None:
    """Serve MODEL (default: candidate) through TorchServe and make it `production`.

    MODEL is a channel, a digest or its first digits. One that searches, rates or predicts clicks
    becomes `production-search` and so on, and answers beside the one that recommends. The version
    that serves now goes on serving until the new one has passed its smoke test, and stays loaded
    for --rollback.

    With --canary the new version answers a share of the users, always the same ones, while errors,
    slow answers and clicks of it and of the one of its kind in production are compared until it is
    shown no worse, and promoted, or worse, and taken back. Ctrl-C leaves it at its share; the same
    command watches on.

    With --edge FILE is written, which `python FILE` serves without torch and TorchServe; it appears
    once it has given the model's own answers here. Nothing that serves is changed.
    """
    from dataclasses import asdict

    from cli import production, trials
    from cli.lock import environment_lock

    chosen = [name for name, given in {
        "--canary": canary is not None, "--shadow": shadow, "--watch": watch,
        "--promote": promote, "--abort": abort, "--rollback": rollback, "--edge": edge is not None,
    }.items() if given]  # fmt: skip
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other.")
    if canary is None and not shadow:
        _refuse_what_only_a_trial_has()
    if model and chosen and chosen[0] not in ("--canary", "--shadow", "--edge"):
        raise click.UsageError(f"{chosen[0]} takes no MODEL: it knows which one.")
    if kind != RECOMMEND and not rollback:
        raise click.UsageError("--kind goes with --rollback; a MODEL or a trial tells its own.")
    target = app.environment(environment)
    if edge is not None:
        _bundle(app, target, model or "candidate", edge, as_json)
        return
    if watch:
        _watch(app, target, trials.find(target, None), as_json)
        return
    with environment_lock(target.folder, "hybrid deploy"), app.progress("deploy") as progress:
        if rollback:
            deployed = production.roll_back(target, kind)
        elif not chosen:
            deployed = production.deploy(target, model or "candidate", progress)
        else:
            # Only here: its imports would keep users from the model that a rollback gives them.
            from cli import canary as trial_of

            if abort:
                trial = trial_of.abort(target, progress)
            elif promote:
                deployed = trial_of.promote(target, progress)
            else:
                rules = trials.Rules(margin / 100, slow_after, click_window)
                trial = trial_of.start(target, model or "candidate", canary, rules, progress)
    if canary is not None or shadow:
        click.echo(
            f"Model {trial.model} is on trial for {trial.channel} with {trial.sharing}.", err=as_json
        )
        if not detach:
            _watch(app, target, trial, as_json)
        elif as_json:
            app.show_json(asdict(trial))
        else:
            app.say("hybrid deploy --watch decides it, --promote or --abort at once.")
    elif abort:
        _tell(app, as_json, None, f"Model {trial.model} was taken back; no user is sent to it.")
    else:
        _tell(app, as_json, deployed, _sentence(deployed))


def _refuse_what_only_a_trial_has() -> None:
    """Without a trial these options would be passed over, and everybody get the model at once."""
    ctx = click.get_current_context()
    for name in ("detach", "margin", "slow_after", "click_window"):
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{option} goes with --canary or --shadow.")


def _bundle(app: Application, target, reference: str, file: Path, as_json: bool) -> None:
    from dataclasses import asdict

    from cli.edge import bundle

    with app.progress("deploy") as progress:
        made = bundle(target, reference, file, progress)
    if as_json:
        app.show_json(asdict(made))
    else:
        click.echo(
            f"{made.file} ({made.bytes / 1e6:.1f} MB, sha256 {made.sha256}) answered "
            f"{made.requests} requests as model {made.model} does: python {made.file}"
        )
        if made.vectors is not None:
            known = "no bound" if made.epsilon is None else f"epsilon {made.epsilon:.1f}"
            click.echo(
                f"Up to {made.vectors} vectors of each user go to the cloud: {known} of what they "
                "give away (docs/privacy.md). Start it with --ledger FILE, which counts them."
            )


def _watch(app: Application, target, trial, as_json: bool) -> None:
    from cli.experiment import watch

    deployed = watch(target, trial, app.say)
    _tell(app, as_json, deployed, _sentence(deployed) if deployed else "Production is as before.")


def _sentence(deployed) -> str:
    if deployed.changed:
        return f"Model {deployed.digest} is in production at {deployed.address}."
    return f"Nothing to deploy: model {deployed.digest} is in production already."


def _tell(app: Application, as_json: bool, deployed, sentence: str) -> None:
    from dataclasses import asdict

    if as_json:
        app.show_json(asdict(deployed) if deployed else {"changed": False})
    else:
        click.echo(sentence)
