"""Which environment a `pulumi` in the shell works on."""

from __future__ import annotations

import pytest

from cli.shell import named_environment


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["preview", "--stack", "local.cloud"], "local"),
        (["preview", "--stack=production.link"], "production"),
        (["up", "-s", "organization/hybrid/production.cloud"], "production"),
        (["stack", "ls"], "local"),
        (["up", "--stack"], "local"),
    ],
)
def test_the_stack_names_the_environment(arguments, environment):
    assert named_environment(arguments) == environment
