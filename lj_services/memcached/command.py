"""``lj memcached serve``."""

from __future__ import annotations

from collections.abc import Callable

from lj_services.daemon import ExitCode, run_service
from lj_services.daemon.command import serve_command
from lj_services.memcached.config import ServerSettings
from lj_services.memcached.server import MemcachedService


@serve_command(ServerSettings)
def serve(load: Callable[[], ServerSettings]) -> ExitCode:
    """Run the embedded memcached server.

    It speaks memcached's text protocol and meta commands, keeps its items in
    memory and evicts the least recently used ones at the memory limit.
    """
    return run_service("memcached", MemcachedService, load)
