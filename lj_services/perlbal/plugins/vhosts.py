"""Vhosts: a selector's service by the request's Host.

::

    LOAD vhosts
    CREATE SERVICE front
      SET role    = selector
      SET listen  = 80
      SET plugins = vhosts
      VHOST www.example.com = web        # this name
      VHOST *.example.com   = users      # any name that ends so, and example.com itself
      VHOST *               = other      # everything else
    ENABLE front

The most particular pattern wins: the name itself, then ``*.`` and ever fewer labels, then
``*``.  A port, a dot at the end and the case of the Host do not matter.

A request for ``/__using/alt.example.com/...`` at ``www.example.com`` is given the Host
``alt.example.com`` if there is ``VHOST www.example.com;using:alt.example.com = service``; the
path stays.

Source: Perlbal::Plugin::Vhosts of Perlbal 1.80.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command
from lj_services.perlbal.plugin import Plugin
from lj_services.perlbal.plugins import _hosts

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

_VHOST = re.compile(r"vhost (?:(\w+) )?(\S+) ?= ?(\w+)")
_USING = re.compile(rb"/__using/([\w.-]+)(?=/|\Z)")


class Vhosts(Plugin):
    """The plug-in, for all selectors."""

    title = "Vhosts"

    def __init__(self) -> None:
        super().__init__()
        self.commands = {"vhost": self._vhost}
        self._maps: dict[Service, dict[str, str]] = {}

    def register(self, service: Service) -> None:
        """Choose for a selector.

        Raises:
            CommandError: it is no selector.
        """
        if service.parameters.role != "selector":
            raise CommandError("Vhosts works on a service with the role selector")
        self._maps.setdefault(service, {})
        service.hooks.register(self.name, "select_service", self._select)

    def unregister(self, service: Service) -> None:
        """Forget a selector's hosts."""
        self._maps.pop(service, None)

    def dump(self, service: Service) -> list[str]:
        """The VHOST lines of a selector."""
        hosts = sorted(self._maps.get(service, {}).items())
        return [f"VHOST {service.name} {pattern} = {name}" for pattern, name in hosts]

    def _vhost(self, balancer: Balancer, command: Command) -> None:
        usage = "usage: VHOST [<service>] <host_or_pattern> = <dest_service>"
        name, pattern, target = command.match(_VHOST, usage).groups()
        name = name or command.context.last_created
        service = balancer.services.get(name)
        if service is None or service not in self._maps:
            raise CommandError(f"service '{name}' is no selector that uses vhosts")
        if not re.fullmatch(r"(?:\*|(?:\*\.)?[\w.-]+)(?:;using:[\w.-]+)?", pattern):
            raise CommandError(f"'{pattern}' is no host; write example.com, *.example.com or *")
        self._maps[service][pattern] = target
        command.ok()

    def _select(self, client: ClientConnection) -> Service | None:
        hosts = self._maps.get(client.service, {})
        request = client.request
        using = _USING.match(request.target)
        if using is not None:
            host = _hosts.bare(request.host)
            name = hosts.get(f"{host};using:{using[1].decode().lower()}")
            if name in client.balancer.services:
                request.set(b"Host", using[1])
        else:
            name = _hosts.find(request.host, hosts)
        return None if name is None else client.balancer.services.get(name)


plugin = Vhosts()
"""What LOAD takes; each balancer of a process shares it."""
