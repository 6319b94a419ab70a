"""XFFExtras: tells nodes which port and protocol a client has come by.

::

    LOAD xffextras
    SET web.plugins            = xffextras
    SET web.send_backend_port  = on        # X-Forwarded-Port: 443
    SET web.send_backend_proto = on        # X-Forwarded-Proto: https

What a client says under these names is replaced; not with ``blind_proxy`` and a proxy that is
trusted, whose word stays.

Source: Perlbal::Plugin::XFFExtras of Perlbal 1.80.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lj_services.perlbal.plugin import Plugin, put
from lj_services.perlbal.proxy.headers import trusted
from lj_services.perlbal.tunables import Tunable
from lj_services.perlbal.values import BOOL

if TYPE_CHECKING:
    from lj_services.perlbal.proxy.exchange import Exchange
    from lj_services.perlbal.service import Service


class XFFExtras(Plugin):
    """The plug-in, for all services."""

    title = "XFFExtras"

    def __init__(self) -> None:
        super().__init__()
        self.tunables = (
            Tunable(
                "send_backend_port",
                BOOL,
                False,
                "whether nodes are told the port that the client has connected to",
                "reverse_proxy",
            ),
            Tunable(
                "send_backend_proto",
                BOOL,
                False,
                "whether nodes are told the client's protocol, http or https",
                "reverse_proxy",
            ),
        )

    def register(self, service: Service) -> None:
        """Add to a service's requests."""
        service.hooks.register(self.name, "backend_client_assigned", _tell)


def _tell(exchange: Exchange, lines: list[bytes]) -> None:
    client = exchange.client
    service = client.service
    parameters = service.parameters
    if parameters.blind_proxy and trusted(service, client.peer):
        return
    if parameters["send_backend_port"]:
        port = client.transport.get_extra_info("sockname")[1]
        put(lines, b"X-Forwarded-Port", b"%d" % port)
    if parameters["send_backend_proto"]:
        tls = client.transport.get_extra_info("sslcontext") is not None
        put(lines, b"X-Forwarded-Proto", b"https" if tls else b"http")


plugin = XFFExtras()
"""What LOAD takes; each balancer of a process shares it."""
