"""``lj ha``: pairs with DRBD and Heartbeat, from the operator's desk.

The hosts are asked by Ansible (``playbooks/ha_status.yml``), so it is run in a checkout,
with the inventory that the pairs were made from.  What is not well is told in the column `trouble`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import lj_services
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.daemon import ExitCode

_CHECKOUT = Path(lj_services.__file__).parents[1]
_PLAYBOOK = "playbooks/ha_status.yml"
PAIR_COLUMNS = ("pair", "host", "role", "disks", "heartbeat", "group", "verified", "trouble")
SLAVE_COLUMNS = ("slave", "of", "behind_s", "position", "backup", "trouble")


def _column(status: str, name: str) -> str:
    """A column of SHOW SLAVE STATUS, printed one below the other."""
    found = re.search(rf"^\s*{name}: (.*)$", status, re.MULTILINE)
    return found[1].strip() if found else ""


def _trouble(state: Mapping[str, Any], holders: Sequence[str]) -> str:
    """What is not well with one host of a pair, in a few words."""
    if state["disks"] != "UpToDate/UpToDate":
        return f"disks are {state['disks'] or 'not known'}"
    if state["connection"] != "Connected":
        return f"the link is {state['connection'] or 'not known'}"
    if state["peer"] != "active":
        return f"the peer is {state['peer'] or 'not known'} to Heartbeat"
    if len(holders) != 1:
        return f"the group is on {' and '.join(holders) or 'no host'}"
    if state["has_group"] and state["server"] != "active":
        return f"the server is {state['server'] or 'not known'}"
    if state["has_group"] and state["watcher"] != "active":
        return f"the server's watcher is {state['watcher'] or 'not known'}"
    if state["out_of_sync"]:
        return f"{state['out_of_sync']} bytes differ"
    return ""


def pairs(said: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for every host of a pair.

    Args:
        said: what ``playbooks/ha_status.yml`` wrote, a mapping for each host.
    """
    mine = [each for each in said if each["pair"] is not None]
    rows = []
    for each in sorted(mine, key=lambda one: (one["pair"], one["host"])):
        holders = [
            other["host"]
            for other in mine
            if other["pair"] == each["pair"] and other["state"] and other["state"]["has_group"]
        ]
        state = each["state"]
        row = {"pair": each["pair"], "host": each["host"], "trouble": "can't be reached"}
        if state:
            row |= {
                "role": state["role"],
                "disks": state["disks"],
                "heartbeat": state["peer"] or state["heartbeat"],
                "group": "here" if state["has_group"] else "",
                "verified": state["verified"],
                "trouble": _trouble(state, holders),
            }
        rows.append(row)
    return rows


def _backup(state: Mapping[str, str]) -> tuple[str, str]:
    """When the newest backup of a slave was made, in UTC; what is not well with the last one."""
    newest = re.sub(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)\d\dZ", r"\1-\2-\3 \4:\5", state["newest"])
    return newest, f"backup {state['failed']}" if state["failed"] else ""


def slaves(said: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for every server that follows another one; of a pair, where it has the group."""
    rows = []
    for each in said:
        has_group = bool(each["state"] and each["state"]["has_group"])
        for role, source in sorted(each["sources"].items()):
            if role in each["held"] and not has_group:
                continue
            status = each["slaves"].get(role)
            row = {"slave": f"{each['host']}/{role}", "of": source, "trouble": "can't be reached"}
            if status is not None:
                runs = [_column(status, f"Slave_{name}_Running") for name in ("IO", "SQL")]
                error = _column(status, "Last_SQL_Error") or _column(status, "Last_IO_Error")
                behind = _column(status, "Seconds_Behind_Master")
                backup, failed = _backup(each["backups"].get(role, {"newest": "", "failed": ""}))
                row |= {
                    "behind_s": int(behind) if behind.isdigit() else None,
                    "position": _column(status, "Gtid_IO_Pos"),
                    "backup": backup,
                    "trouble": failed if runs == ["Yes", "Yes"] else error or "does not replicate",
                }
            rows.append(row)
    return rows


def ask(inventory: Path) -> list[dict[str, Any]]:
    """What every pair and slave of an inventory says.

    Raises:
        CommandError: there is no checkout or no Ansible here, or the play failed.
    """
    if not (_CHECKOUT / _PLAYBOOK).exists():
        raise CommandError(
            "this is no checkout of the kit: run `lj ha` where the playbooks are", ExitCode.CONFIG
        )
    beside = Path(sys.executable).with_name("ansible-playbook")
    program = str(beside) if beside.exists() else shutil.which("ansible-playbook")
    if program is None:
        raise CommandError("ansible-playbook is not installed here: make venv", ExitCode.CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "said.json"
        run = subprocess.run(
            [program, "-i", inventory.absolute(), _PLAYBOOK, "-e", f"ha_status_file={file}"],
            cwd=_CHECKOUT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        # Hosts that can't be reached fail the play, and are told all the same.
        if not file.exists():
            end = "\n".join((run.stdout + run.stderr).splitlines()[-15:])
            raise CommandError(f"the hosts could not be asked:\n{end}", ExitCode.UNREACHABLE)
        found: list[dict[str, Any]] = json.loads(file.read_text())
        return found


@click.group()
def command() -> None:
    """Pairs with DRBD and Heartbeat, and their slaves."""


@command.command()
@click.option(
    "-i",
    "--inventory",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="The inventory that the pairs were made from.",
)
@json_option
def status(inventory: Path, as_json: bool) -> None:
    """Who is primary, disks, Heartbeat's view, the last comparison; slaves, their newest backups.

    Ends with 1 where something is not well; the last column says what.
    """
    said = ask(inventory)
    of_pairs, of_slaves = pairs(said), slaves(said)
    output = Output(as_json)
    if as_json:
        output.document({"pairs": of_pairs, "slaves": of_slaves})
    else:
        output.table(PAIR_COLUMNS, of_pairs)
        if of_slaves:
            output.table(SLAVE_COLUMNS, of_slaves)
    if any(row["trouble"] for row in (*of_pairs, *of_slaves)):
        raise SystemExit(ExitCode.FAILED)
