"""The operator's command, ``lj``: a group of commands per system.

Each group is a module here that exposes ``command``; it is imported when it is
used, so that ``lj --help`` stays quick as systems join.  ``output`` is how
commands print, ``site`` what they work on.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import click
from click.shell_completion import CompletionItem

import lj_services

GROUPS = {
    "balance": "Which users should live on which cluster",
    "db": "Schema and state of the databases",
    "disks": "Prove that disks keep what fsync promised",
    "gearman": "The server that hands function calls to workers",
    "ha": "Pairs with DRBD and Heartbeat",
    "journal": "The sample site",
    "memcached": "Cache servers and their rings",
    "mover": "The workers who move users between clusters",
    "moves": "Moves of users between clusters",
    "perlbal": "The load balancer, reverse proxy and web server",
    "smoke": "Use the site as two people would, and show where every row lies",
    "users": "Users and the clusters they live on",
}


class LazyGroup(click.Group):
    """Knows its commands' names and one-line helps; imports a command's module on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return None
        module = importlib.import_module(f"lj_services.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        groups = [
            CompletionItem(name, help=GROUPS[name])
            for name in sorted(GROUPS)
            if name.startswith(incomplete)
        ]
        return groups + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(GROUPS.items()))


EPILOG = """\b
Exit codes:
  0  done
  1  failed
  2  usage
  3  bad configuration
  4  no such thing (user, key, cluster ...)
  5  refused (read-only, name taken, schema newer than the code ...)
  6  cannot be reached (database, cache, port)

\b
Shell completion, with lj on PATH:
  bash  eval "$(_LJ_COMPLETE=bash_source lj)"
  zsh   autoload -Uz compinit && compinit; eval "$(_LJ_COMPLETE=zsh_source lj)"
  fish  _LJ_COMPLETE=fish_source lj | source
"""


@click.command(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option(
    "--site",
    "site_file",
    envvar="LJ_SITE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Site file.  Default: var/etc/site.toml below this folder, else /etc/lj/site.toml.",
)
@click.version_option(lj_services.__version__, "--version", prog_name="lj")
@click.pass_context
def main(ctx: click.Context, site_file: Path | None) -> None:
    """Operate a LiveJournal backend: users, databases, caches and the site."""
    ctx.obj = site_file
