from __future__ import annotations

from dataclasses import fields

import click

from cli import strategy_options
from cli.commands.federate import federate
from federation.selection import RULES
from federation.settings import RunSettings
from federation.strategies.make import STRATEGIES


def test_the_options_are_the_settings_of_a_run_with_the_same_defaults() -> None:
    assert tuple(strategy_options.STRATEGIES) == tuple(STRATEGIES)
    assert strategy_options.RULES == RULES
    context = click.Context(federate)
    offered = {option.name: option for option in federate.params}
    defaults = {field.name: field.default for field in fields(RunSettings)}
    for name in ("strategy", "proximal_mu", "server_rate", "server_momentum", "buffer", "wrong_sites",
                 "by_row", "keep_moments", "personal", "final_rate", "selection", "fraction", "answer_within",
                 "keep_updates"):  # fmt: skip
        assert offered[name].get_default(context) == defaults[name], name
