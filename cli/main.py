"""`hybrid`: the command line. Each command is a module of `cli.commands`, imported when it is used."""

from __future__ import annotations

import errno
import importlib
import os
import sys

import click

COMMANDS = {
    "init": "Prepare an environment's folder, engine plugins and stacks.",
    "up": "Stand an environment up, or mend it.",
    "data": "Look at, filter and split data.",
    "train": "Pretrain and fine-tune a recommender; store it.",
    "submit": "Train on SageMaker, Vertex AI or Azure ML.",
    "evaluate": "Report on a stored model, with 95 % intervals.",
    "compare": "Tell whether two stored models differ.",
    "federate": "Train across the sites with Flower; store the result.",
    "site": "Enrol sites, cut them off, read the audit log.",
    "accelerate": "Prune, quantise and export a stored model; store the result.",
    "deploy": "Serve a stored model through TorchServe.",
    "experiment": "Show what a canary found; record clicks.",
    "edge": "Serve an edge bundle on a site's hosts.",
    "events": "Say who may post what users did.",
    "recommend": "Ask the served model for a user's next items.",
    "explain": "Tell which past events caused a recommendation.",
    "offpolicy": "Estimate a new policy's click rate from a log.",
    "search": "Search a catalogue for words and for meaning.",
    "run": "up, train, federate, deploy and recommend in one go.",
    "status": "Show layers, servers and the model in production.",
    "metrics": "Print gauges of steps, rounds and models for Prometheus.",
    "link": "Plan, watch and re-key the link between sites and cloud.",
    "preview": "Show what up would change, as the engine plans it.",
    "plan": "Show what up would change, in two seconds without the engine.",
    "drift": "Tell what is no longer as recorded.",
    "graph": "Draw what needs what, as SVG.",
    "cost": "Show what an environment costs a month.",
    "models": "Look at stored models, move channels, check and clear the store.",
    "store": "List and copy objects between stores.",
    "logs": "Show what a local server printed.",
    "doctor": "Tell what is missing and how to mend it.",
    "down": "Tear an environment down.",
    "orphans": "List what is in the clouds but in no state.",
    "completion": "Print the script that completes commands in a shell.",
}


class LazyGroup(click.Group):
    """A group that imports a command's module only to run it or to show its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        return getattr(importlib.import_module(f"cli.commands.{name}"), name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hybrid-recsys", prog_name="hybrid")
@click.pass_context
def hybrid(ctx: click.Context) -> None:
    """Provision, train, federate and deploy recommenders across private servers and the cloud."""
    from cli.application import Application

    ctx.obj = Application.from_process()


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; known failures end it with one sentence instead of a traceback."""
    # Looking for pydantic's plugins reads every installed package's metadata, and none is one.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    try:
        # Click's own main would turn Ctrl-C into "Aborted!"; here it says how to go on.
        sys.exit(hybrid.main(arguments, prog_name="hybrid", standalone_mode=False) or 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. The same command goes on from here; hybrid down clears up.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        # Each package's own exceptions carry an exit code beside their sentence.
        exit_code = getattr(error, "exit_code", None)
        if exit_code is None and (lacking := _lacking(error)):
            exit_code, error = 1, lacking
        if not isinstance(exit_code, int) or os.environ.get("HYBRID_TRACEBACK"):
            raise
        click.secho("Error: ", fg="red", nl=False, err=True)
        click.echo(str(error), err=True)
        sys.exit(exit_code)


def _lacking(error: Exception) -> str | None:
    """A sentence for what the machine does not give, whatever was done: disk, memory, a folder."""
    if isinstance(error, MemoryError) or (
        # Torch has no exception of its own for a processor that has no more.
        isinstance(error, RuntimeError)
        and ("can't allocate memory" in str(error) or "out of memory" in str(error))
    ):
        return (
            "There is not enough memory for this: take a smaller model (dimension, length, blocks) "
            f"or less data, or a larger machine ({str(error).splitlines()[0]})."
        )
    # safetensors has an exception of its own, and of the system's the words alone.
    no_room = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    if any(words in str(error) for words in no_room):
        file = getattr(error, "filename", None)
        disk = f"disk of {file}" if file else "disk that is written to"
        return f"The {disk} is full: make room there, then run the same command again."
    if not isinstance(error, OSError):
        return None
    if error.filename and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return (
            f"{error.filename} cannot be read or written ({error.strerror}): "
            "change its permissions, or name another place."
        )
    return None


if __name__ == "__main__":
    main()
