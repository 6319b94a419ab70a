"""Rules that hold for every command of ``lj``, whatever it does."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from lj_services.cli import main

pytestmark = pytest.mark.unit

DAEMONS = {"coordinator", "gofer", "host", "serve", "worker"}
"""They run until they are stopped and print nothing but their log."""
OTHER_FORMS = {
    "lj disks check": "words for ``disk-checker run``, which has --json",
    "lj perlbal drain": "what the command prints that it runs",
}


def commands(command: click.Command, context: click.Context) -> Iterator[click.Context]:
    """All commands below `command` that are no groups."""
    if not isinstance(command, click.Group):
        yield context
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None, f"{context.command_path} lists {name} and has none"
        yield from commands(found, click.Context(found, parent=context, info_name=name))


COMMANDS = {
    context.command_path: context
    for context in commands(main, click.Context(main, info_name="lj", **main.context_settings))
}


def test_the_tree_is_whole() -> None:
    for path in ("lj users create", "lj db status", "lj memcached ring", "lj journal serve"):
        assert path in COMMANDS
    assert set(OTHER_FORMS) < set(COMMANDS)


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_what_prints_does_so_in_json_too(path: str) -> None:
    command = COMMANDS[path].command
    options = {name for parameter in command.params for name in parameter.opts}
    excused = path in OTHER_FORMS or command.name in DAEMONS
    assert ("--json" in options) != excused


@pytest.mark.parametrize("path", sorted(COMMANDS))
def test_help_says_what_for(path: str) -> None:
    command = COMMANDS[path].command
    assert command.help
    for option in command.params:
        if isinstance(option, click.Option):
            explained = option.help or option.show_default or isinstance(option.type, click.Choice)
            assert explained, f"{path} {option.opts[0]}"
