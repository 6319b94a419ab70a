"""The embedded server's settings, tables and operator commands."""

from __future__ import annotations

import asyncio
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lj_services.daemon import ConfigError, load_settings
from lj_services.memcached.config import ServerSettings
from lj_services.memcached.items import Items
from lj_services.memcached.metrics import ServerMetrics
from lj_services.memcached.server import MemcachedService
from lj_services.memcached.statistics import Counters
from tests.support.memcached import MemcachedServer, Start
from tests.support.process import free_port

pytestmark = pytest.mark.unit


@pytest.fixture
def server(our_memcached: Start) -> MemcachedServer:
    return our_memcached()


def test_sizes_are_written_with_units(tmp_path: Path) -> None:
    file = tmp_path / "memcached.toml"
    file.write_text('memory_limit = "1g"\nmax_item_size = "2m"\n')
    settings = load_settings(ServerSettings, file)
    assert (settings.memory_limit, settings.max_item_size) == (1 << 30, 2 << 20)


def test_a_limit_that_holds_no_items_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory_limit must be at least 4 times max_item_size"):
        load_settings(ServerSettings, None, ["memory_limit=2m"])


def test_what_needs_a_restart_is_not_reloaded() -> None:
    async def reload() -> None:
        service = MemcachedService(ServerSettings())
        service.reload(ServerSettings(memory_limit=32 << 20, max_connections=5))
        assert service.items.limit == 32 << 20
        assert service.limits.max_connections == 5
        with pytest.raises(ConfigError, match=r"max_item_size: .* restart it"):
            service.reload(ServerSettings(max_item_size=2 << 20))

    asyncio.run(reload())


def test_stats_count_what_happened(our_memcached: Start) -> None:
    server = our_memcached(fresh=True)
    server.exchange(
        b"set a 0 0 1\r\nx\r\nget a b\r\nget a\r\nincr n 1\r\ntouch a 9\r\ndelete a\r\ndelete a\r\n"
        b"set k 0 0 2000000\r\n" + b"x" * 2_000_000 + b"\r\n"
    )
    stats = server.stats()
    expected = {
        "cmd_get": 3,
        "get_hits": 2,
        "get_misses": 1,
        "cmd_set": 1,
        "incr_misses": 1,
        "touch_hits": 1,
        "delete_hits": 1,
        "delete_misses": 1,
        "store_too_large": 1,
        "curr_items": 0,
        "total_items": 1,
        "limit_maxbytes": 64 << 20,
    }
    assert {name: int(stats[name]) for name in expected} == expected
    assert int(stats["bytes_read"]) > 2_000_000
    assert server.exchange(b"stats reset\r\n") == b"RESET\r\n"
    assert server.stats()["cmd_get"] == "0"


def test_the_tables_of_stats(server: MemcachedServer) -> None:
    assert server.stats("settings")["item_size_max"] == str(1 << 20)
    assert server.stats("items") == {}
    assert server.stats("slabs")["active_slabs"] == "0"
    server.exchange(b"set a 0 0 1\r\nx\r\n")
    assert server.stats("items")["items:1:number"] == "1"
    assert int(server.stats("slabs")["1:chunk_size"]) > 100
    assert any(name.endswith(":addr") for name in server.stats("conns"))
    assert server.stats("sizes") == {"sizes_status": "disabled"}
    assert server.exchange(b"stats nonsense\r\n") == b"ERROR\r\n"


def test_me_tells_of_an_item(server: MemcachedServer) -> None:
    server.exchange(b"set a 0 100 1\r\nx\r\nget a\r\n")
    words = server.exchange(b"me a\r\n").split()
    assert words[:2] == [b"ME", b"a"]
    told = dict(word.split(b"=") for word in words[2:])
    assert 98 <= int(told[b"exp"]) <= 100
    assert told[b"fetch"] == b"yes"
    assert int(told[b"size"]) > 200


def test_the_memory_limit_can_be_changed(our_memcached: Start) -> None:
    server = our_memcached(fresh=True)
    assert server.exchange(b"cache_memlimit 16\r\n") == b"OK\r\n"
    assert server.stats()["limit_maxbytes"] == str(16 << 20)
    assert server.exchange(b"cache_memlimit 1\r\n").startswith(b"MEMLIMIT_TOO_SMALL")


def test_shutdown_is_off_unless_it_is_allowed(
    server: MemcachedServer, our_memcached: Start
) -> None:
    assert server.exchange(b"shutdown\r\n") == b"ERROR: shutdown not enabled\r\n"
    mortal = our_memcached("shutdown_command=true", fresh=True)
    assert mortal.exchange(b"shutdown now\r\n") == b"CLIENT_ERROR invalid shutdown mode\r\n"
    mortal.exchange(b"shutdown graceful\r\n")
    assert mortal.running.process.wait(10) == 0


def test_metrics_are_read_from_the_counters() -> None:
    items, counters = Items(1 << 20), Counters()
    items.put(b"a", 0, b"x")
    counters.cmd_get, counters.get_hits = 5, 3
    registry = CollectorRegistry()
    registry.register(ServerMetrics(items, counters))
    page = generate_latest(registry).decode()
    assert "lj_memcached_items 1.0" in page
    assert 'lj_memcached_commands_total{command="get",result="miss"} 2.0' in page


def test_the_metrics_listener_serves_them(our_memcached: Start) -> None:
    port = free_port()
    server = our_memcached(f"metrics_listen=127.0.0.1:{port}", fresh=True)
    server.exchange(b"get nothing\r\n")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        text = page.read().decode()
    assert 'lj_memcached_commands_total{command="get",result="miss"} 1.0' in text
    assert "lj_memcached_limit_bytes 6.7108864e+07" in text
