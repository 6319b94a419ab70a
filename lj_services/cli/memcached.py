"""``lj memcached``: cache servers and their rings."""

from __future__ import annotations

import click

from lj_services.memcached.command import serve


@click.group()
def command() -> None:
    """Cache servers and their rings."""


command.add_command(serve)
