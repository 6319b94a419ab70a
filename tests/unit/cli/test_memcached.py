"""``lj memcached stats`` and ``ring`` as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lj_services.cli import main
from tests.support.memcached import MemcachedServer, Start
from tests.support.process import free_port

pytestmark = pytest.mark.unit


class Site:
    """A site file with some cache servers, and ``lj`` on it."""

    def __init__(self, folder: Path, *addresses: str) -> None:
        self.file = folder / "site.toml"
        roles = f'[database.roles.global]\nwriter = "sqlite:///{folder}/global.db"\n'
        servers = ", ".join(f'{{ address = "{address}" }}' for address in addresses)
        cache = f'[memcached]\nring = "crc32"\nservers = [ {servers} ]\n' if addresses else ""
        self.file.write_text(roles + cache, encoding="utf-8")

    def lj(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["--site", str(self.file), "memcached", *words])


@pytest.fixture
def server(our_memcached: Start) -> MemcachedServer:
    return our_memcached("memory_limit=16m")


@pytest.fixture
def dead() -> str:
    return f"127.0.0.1:{free_port()}"


def test_stats_has_a_line_for_each_server(
    tmp_path: Path, server: MemcachedServer, dead: str
) -> None:
    server.exchange(b"set k 0 0 1\r\nx\r\nget k\r\nget none\r\n")
    result = Site(tmp_path, server.address, dead).lj("stats")
    assert result.exit_code == 0
    _, live_line, dead_line = result.output.splitlines()
    assert server.address in live_line
    assert "live" in live_line
    assert "0.0 of 16 MiB" in live_line
    assert dead in dead_line
    assert "dead" in dead_line


def test_stats_for_machines_and_of_a_kind(
    tmp_path: Path, server: MemcachedServer, dead: str
) -> None:
    site = Site(tmp_path, server.address, dead)
    document = json.loads(site.lj("stats", "--json").output)
    assert document[dead] is None
    assert document[server.address]["limit_maxbytes"] == str(16 << 20)
    assert "maxbytes" in site.lj("stats", "settings").output


def test_ring_tells_where_keys_lie_and_where_they_go(
    tmp_path: Path, server: MemcachedServer, dead: str
) -> None:
    site = Site(tmp_path, dead, server.address)
    rows = json.loads(site.lj("ring", "--pin", "4", "user:4", "log:4", "--json").output)
    assert [(row["key"], row["server"], row["state"]) for row in rows] == [
        ("user:4", dead, "dead"),
        ("log:4", dead, "dead"),
    ]
    assert {row["now"] for row in rows} == {server.address}
    result = site.lj("ring", "--pin", "5", "user:5")
    assert [server.address, "live", server.address] == result.output.split()[-3:]
    assert "crc32" in result.output


def test_refusals(tmp_path: Path, dead: str) -> None:
    result = Site(tmp_path, dead).lj("stats")
    assert (result.exit_code, "no cache server answers" in result.output) == (6, True)
    result = Site(tmp_path, dead).lj("ring", "a b")
    assert (result.exit_code, "no key" in result.output) == (2, True)
    result = Site(tmp_path).lj("stats")
    assert (result.exit_code, "no table [memcached]" in result.output) == (3, True)
