"""NotModified: tells clients that what they have is good, for hosts whose files never change.

::

    LOAD notmodified
    SET files.plugins = notmodified
    SET files.notmodified.host_pattern = ^static\\.example\\.com

Every request with If-Modified-Since for a host that matches is answered 304, whatever the
date.  ``none`` switches it off.

Source: Perlbal::Plugin::NotModified of Perlbal 1.80.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lj_services.perlbal.plugin import Plugin, regexp

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service


class NotModified(Plugin):
    """The plug-in, for all services."""

    title = "NotModified"

    def __init__(self) -> None:
        super().__init__()
        self._hosts: dict[Service, re.Pattern[bytes]] = {}

    def register(self, service: Service) -> None:
        """Look at a service's requests."""
        service.hooks.register(self.name, "start_http_request", self._start)

    def unregister(self, service: Service) -> None:
        """Forget a service's pattern."""
        self._hosts.pop(service, None)

    def set(self, service: Service, key: str, value: str) -> bool:
        """``host_pattern``."""
        if key != "host_pattern":
            return False
        if value == "none":
            self._hosts.pop(service, None)
        else:
            self._hosts[service] = regexp(value)
        return True

    def dump(self, service: Service) -> list[str]:
        """The SET line of a service."""
        pattern = self._hosts.get(service)
        if pattern is None:
            return []
        return [f"SET {service.name}.{self.name}.host_pattern = {pattern.pattern.decode()}"]

    def _start(self, client: ClientConnection) -> bool:
        request = client.request
        pattern = self._hosts.get(client.service)
        if (
            pattern is None
            or request.method not in (b"GET", b"HEAD")
            or b"if-modified-since" not in request.fields
            or not pattern.search(request.host)
        ):
            return False
        client.answer(304)
        return True


plugin = NotModified()
"""What LOAD takes; each balancer of a process shares it."""
