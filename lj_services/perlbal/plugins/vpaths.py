"""Vpaths: a selector's service by the request's path.

::

    LOAD vpaths
    CREATE SERVICE front
      SET role    = selector
      SET listen  = 80
      SET plugins = vpaths
      VPATH ^/images/ = files        # the first regular expression that matches decides
      VPATH .         = web
    ENABLE front

The expressions see the path with its query; they are matched anywhere unless they begin with
``^``.

Source: Perlbal::Plugin::Vpaths of Perlbal 1.80.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command
from lj_services.perlbal.plugin import Plugin, regexp, service_meant

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

_VPATH = re.compile(r"vpath (?:(\w+) )?(\S+) ?= ?(\w+)", re.IGNORECASE)


class Vpaths(Plugin):
    """The plug-in, for all selectors."""

    title = "Vpaths"

    def __init__(self) -> None:
        super().__init__()
        self.commands = {"vpath": self._vpath}
        self._paths: dict[Service, list[tuple[re.Pattern[bytes], str]]] = {}

    def register(self, service: Service) -> None:
        """Choose for a selector.

        Raises:
            CommandError: it is no selector.
        """
        if service.parameters.role != "selector":
            raise CommandError("Vpaths works on a service with the role selector")
        self._paths.setdefault(service, [])
        service.hooks.register(self.name, "select_service", self._select)

    def unregister(self, service: Service) -> None:
        """Forget a selector's paths."""
        self._paths.pop(service, None)

    def dump(self, service: Service) -> list[str]:
        """The VPATH lines of a selector."""
        return [
            f"VPATH {service.name} {pattern.pattern.decode()} = {name}"
            for pattern, name in self._paths.get(service, ())
        ]

    def _vpath(self, balancer: Balancer, command: Command) -> None:
        usage = "usage: VPATH [<service>] <path regex> = <dest_service>"
        name, pattern, target = command.match_original(_VPATH, usage).groups()
        service = service_meant(balancer, command, name or "")
        if service not in self._paths:
            raise CommandError(f"Service '{service.name}' is no selector that uses vpaths")
        self._paths[service].append((regexp(pattern), target.lower()))
        command.ok()

    def _select(self, client: ClientConnection) -> Service | None:
        target = client.request.target
        for pattern, name in self._paths.get(client.service, ()):
            if pattern.search(target):
                return client.balancer.services.get(name)
        return None


plugin = Vpaths()
"""What LOAD takes; each balancer of a process shares it."""
