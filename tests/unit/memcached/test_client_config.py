"""The ``[memcached]`` table of the site file."""

from __future__ import annotations

from pathlib import Path

import pytest

from lj_services.daemon import ConfigError, load_settings
from lj_services.memcached.client import Client
from lj_services.memcached.client_config import ClientSettings
from lj_services.memcached.rings import KetamaRing, Server

pytestmark = pytest.mark.unit


def read(tmp_path: Path, text: str) -> ClientSettings:
    file = tmp_path / "memcached.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(ClientSettings, file)


def test_a_client_is_made_as_the_table_says(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        'ring = "ketama"\nnamespace = "lj:"\n'
        'servers = [ { address = "127.0.0.1:11211" }, { address = "[::1]:11212", weight = 3 } ]\n',
    )
    with Client.from_settings(settings) as client:
        assert isinstance(client.ring, KetamaRing)
        assert client.servers == (Server("127.0.0.1", 11211), Server("::1", 11212, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("servers = []", "servers"),
        ('servers = [ { address = "nowhere" } ]', "HOST:PORT"),
        ('servers = [ { address = "a:1", weight = 0 } ]', "weight"),
        ('servers = [ { address = "a:1" }, { address = "a:1" } ]', "a:1 twice"),
        ('ring = "rendezvous"\nservers = [ { address = "a:1" } ]', "ring"),
        ('timeout_s = 0\nservers = [ { address = "a:1" } ]', "timeout_s"),
        ('namespace = "a b"\nservers = [ { address = "a:1" } ]', "namespace"),
    ],
)
def test_a_bad_table_is_refused_with_the_reason(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, text)
