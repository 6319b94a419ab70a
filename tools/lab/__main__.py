"""``python -m tools.lab``: make and end a lab, and do to its hosts what befalls hosts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click

from tools.lab import control
from tools.lab.image import ImageFailed, image
from tools.lab.machine import MachineError
from tools.lab.plan import BadPlan, read_inventory

VAR = Path(os.environ.get("VAR", control.CHECKOUT / "var"))
CACHE = VAR / "cache/lab"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=VAR / "lab/default",
    show_default=True,
    help="The lab's state folder.",
)
@click.pass_context
def main(ctx: click.Context, state: Path) -> None:
    """Virtual machines in a network of their own, gone when the lab is ended."""
    ctx.obj = control.State(state.absolute())


@main.command()
@click.option("-i", "--inventory", type=click.Path(exists=True, path_type=Path), required=True)
@click.pass_obj
def up(state: control.State, inventory: Path) -> None:
    """Make the lab that an inventory describes; one that is there is ended first."""
    control.start(state, read_inventory(inventory), CACHE)
    control.wait_for_hosts(state)


@main.command()
@click.pass_obj
def down(state: control.State) -> None:
    """End the lab and remove its folder."""
    control.end(state)


@main.command(name="image")
def build() -> None:
    """Build the image where it is not there yet, and tell its folder."""
    with image(CACHE) as (built, _):
        click.echo(built.folder)


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("host")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def ssh(state: control.State, host: str, words: tuple[str, ...]) -> None:
    """Log in to a host, or run a command there."""
    os.execvp("ssh", ["ssh", "-F", str(state.ssh_config), host, *words])  # noqa: S606


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_obj
def inside(state: control.State, words: tuple[str, ...]) -> None:
    """Run a command of this machine in the lab's network."""
    sys.exit(subprocess.run(control.inside(state, words), check=False).returncode)


@main.command()
@click.argument("hosts", nargs=-1)
@click.pass_obj
def wait(state: control.State, hosts: tuple[str, ...]) -> None:
    """Wait until hosts have booted."""
    control.wait_for_hosts(state, hosts)


@main.command()
@click.pass_obj
def status(state: control.State) -> None:
    """Power, unplugged cables and failed disks of every host, as JSON."""
    click.echo(json.dumps(control.ask(state, "status"), indent=2))


def _verb(name: str, text: str, *arguments: str) -> None:
    @main.command(name=name, help=text)
    @click.pass_obj
    def carry_out(state: control.State, /, **words: str) -> None:
        control.ask(state, name, *(words[argument] for argument in arguments))

    for argument in arguments:
        click.argument(argument)(carry_out)


_verb("on", "Give a host power.", "host")
_verb("pull", "Pull a host's power.", "host")
_verb("press", "Press a host's power button.", "host")
_verb("reset", "Pull a host's power and give it back.", "host")
_verb("renew", "Put a new, empty machine in the place of a host without power.", "host")
_verb(
    "cut", "Unplug a host's cable to a network: public, or a cross-over's name.", "host", "network"
)
_verb("mend", "Plug a host's cable in again.", "host", "network")
_verb("fail", "Have a host's further disk answer with errors.", "host", "disk")
_verb("heal", "Have it work again, with what it held.", "host", "disk")

if __name__ == "__main__":
    try:
        main(prog_name="python -m tools.lab")
    except (BadPlan, ImageFailed, MachineError, control.LabError) as error:
        sys.exit(f"lab: {error}")
