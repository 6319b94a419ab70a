"""LazyCDN: files from the disk, and those that are not there yet from another service.

::

    LOAD lazycdn
    CREATE SERVICE cdn
      SET role             = web_server
      SET docroot          = /var/cache/files
      SET listen           = 80
      SET plugins          = lazycdn
      SET fallback_service = origin             # a reverse_proxy to where the files come from
      SET fallback_udp_ping_addr = 127.0.0.1:9000
    ENABLE cdn

A file that is missing, or older than the ``v=SECONDS`` in the address says, is asked of
``fallback_service``; the address is sent to ``fallback_udp_ping_addr`` as a datagram, so that
something can fetch the file for the next one who asks.

Source: Perlbal::Plugin::LazyCDN of Perlbal 1.80.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.plugin import Plugin
from lj_services.perlbal.tunables import Tunable
from lj_services.perlbal.values import TEXT, Kind

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

_VERSION = re.compile(rb"\bv=(\d{1,18})\b")
_ADDRESS = re.compile(r"(\d+\.\d+\.\d+\.\d+):(\d{1,5})", re.ASCII)


def _address(text: str, _key: str) -> str:
    match = _ADDRESS.fullmatch(text)
    if text and (match is None or int(match[2]) > 65535):
        raise ValueError("Expecting IP:port of form a.b.c.d:port.")
    return text


class LazyCDN(Plugin):
    """The plug-in, for all services."""

    title = "LazyCDN"

    def __init__(self) -> None:
        super().__init__()
        self.tunables = (
            Tunable(
                "fallback_service",
                TEXT,
                "",
                "who is asked for files that are missing or too old",
                "web_server",
            ),
            Tunable(
                "fallback_udp_ping_addr",
                Kind("address", _address),
                "",
                "who is told the addresses of such files, a.b.c.d:port",
                "web_server",
            ),
        )
        self._socket: socket.socket | None = None

    def register(self, service: Service) -> None:
        """Look at what a web server is about to send.

        Raises:
            CommandError: it is none.
        """
        if service.parameters.role != "web_server":
            raise CommandError("LazyCDN works on a service with the role web_server")
        for point in ("static_get_poststat_pre_send", "concat_get_poststat_pre_send"):
            service.hooks.register(self.name, point, self._found)
        for point in ("static_get_poststat_file_missing", "concat_get_poststat_file_missing"):
            service.hooks.register(self.name, point, self._fall_back)

    def unload(self, balancer: Balancer) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _found(self, client: ClientConnection, modified: int) -> bool:
        version = _VERSION.search(client.request.target)
        return version is not None and int(version[1]) > modified and self._fall_back(client)

    def _fall_back(self, client: ClientConnection) -> bool:
        service = client.service
        other = service.balancer.services.get(service.parameters["fallback_service"].lower())
        if other is None or other is service:
            return False
        self._ping(service, client.request.target)
        client.drop_body()
        client.hand_over(other)
        return True

    def _ping(self, service: Service, target: bytes) -> None:
        match = _ADDRESS.fullmatch(service.parameters["fallback_udp_ping_addr"])
        if match is None:
            return
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            self._socket.setblocking(False)
        try:
            self._socket.sendto(target, (match[1], int(match[2])))
        except OSError:
            return  # a ping that is lost is only a file that is fetched later


plugin = LazyCDN()
"""What LOAD takes; each balancer of a process shares it."""
