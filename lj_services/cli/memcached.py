"""``lj memcached``: cache servers and their rings."""

from __future__ import annotations

from typing import Any

import click

from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.daemon import ExitCode
from lj_services.memcached.client import Client
from lj_services.memcached.command import serve
from lj_services.memcached.errors import BadKey


@click.group()
def command() -> None:
    """Cache servers and their rings."""


command.add_command(serve)


@command.command()
@click.argument("kind", nargs=-1)
@json_option
@pass_site
def stats(site: Site, kind: tuple[str, ...], as_json: bool) -> None:
    """Statistics of all cache servers of the site.

    KIND is a word that the server knows, as items, slabs or settings.  Without it: a
    line for each server; --json has everything that the servers tell.
    """
    client = _client(site)
    try:
        told = client.stats(*kind)
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    if not told:
        raise CommandError(
            f"no cache server answers ({', '.join(map(str, client.servers))})", ExitCode.UNREACHABLE
        )
    output = Output(as_json)
    if as_json:
        output.document({str(server): told.get(str(server)) for server in client.servers})
    elif kind:
        columns = ["server", "name", "value"]
        output.table(
            columns,
            [
                {"server": address, "name": name, "value": value}
                for address, values in told.items()
                for name, value in values.items()
            ],
        )
    else:
        rows = [_summary(str(server), told.get(str(server))) for server in client.servers]
        output.table(list(rows[0]), rows)


@command.command(short_help="On which cache server each KEY lies.")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--pin", type=int, metavar="NUMBER", help="Keys of this number, as a userid.")
@json_option
@pass_site
def ring(site: Site, keys: tuple[str, ...], pin: int | None, as_json: bool) -> None:
    """Show on which cache server each KEY lies, and whether that server lives.

    Keys of a user are placed by the userid: lj memcached ring --pin 7 user:7
    """
    client = _client(site)
    living = client.versions()
    try:
        rows = [_place(client, key, pin, living) for key in keys]
    except BadKey as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    ring_name = site.settings.memcached.ring if site.settings.memcached is not None else ""
    for row in rows:
        row["ring"] = ring_name
    Output(as_json).table(["key", "ring", "server", "state", "now"], rows)


def _client(site: Site) -> Client:
    if site.cache is None:
        raise CommandError(
            f"{site.file} has no table [memcached]: this site uses no cache", ExitCode.CONFIG
        )
    return site.cache


def _place(client: Client, key: str, pin: int | None, living: dict[str, str]) -> dict[str, Any]:
    """Where a key belongs, and where it goes while that server is dead."""
    now = client.server_for(key if pin is None else (pin, key))
    home = client.ring.locate(key.encode(), pin)
    server = None if home is None else str(client.servers[home])
    return {
        "key": key,
        "pin": pin,
        "server": server,
        "state": "live" if server in living else "dead",
        "now": None if now is None else str(now),
    }


def _summary(address: str, told: dict[str, str] | None) -> dict[str, Any]:
    """One server in a line of figures."""
    if told is None:
        told, state = {}, "dead"
    else:
        state = "live"

    def figure(name: str) -> int | None:
        value = told.get(name, "")
        return int(value) if value.isdigit() else None

    hits, misses = figure("get_hits") or 0, figure("get_misses") or 0
    used, limit = figure("bytes"), figure("limit_maxbytes")
    return {
        "server": address,
        "state": state,
        "up": _duration(figure("uptime")),
        "items": figure("curr_items"),
        "memory": None
        if used is None or limit is None
        else f"{used / 2**20:.1f} of {limit >> 20} MiB",
        "hits": f"{hits / (hits + misses):.1%}" if hits + misses else None,
        "evictions": figure("evictions"),
    }


def _duration(seconds: int | None) -> str | None:
    """Seconds for people, in the largest unit that fits."""
    if seconds is None:
        return None
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
