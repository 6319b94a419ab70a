"""Redirect: sends clients of one host to another one, path and all.

::

    LOAD redirect
    CREATE SERVICE moved
      SET role    = selector
      SET listen  = 80
      SET plugins = redirect
      REDIRECT HOST example.com   www.example.com
      REDIRECT HOST *.example.net www.example.com
    ENABLE moved

Patterns are those of Vhosts.  The answer is 301, or 308 where the request is not GET or HEAD,
so that clients repeat what they asked; to ``https`` where the client has come so.  Requests
for other hosts go on as if the plug-in were not there.

Source: Perlbal::Plugin::Redirect of Perlbal 1.80 (which knows 301 and http only).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command
from lj_services.perlbal.plugin import Plugin, service_meant
from lj_services.perlbal.plugins import _hosts

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

_REDIRECT = re.compile(r"redirect host (\S+) (\S+)")
_TARGET = re.compile(r"(?:[\w.-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.ASCII)


class Redirect(Plugin):
    """The plug-in, for all services."""

    title = "Redirect"

    def __init__(self) -> None:
        super().__init__()
        self.commands = {"redirect": self._redirect}
        self._hosts: dict[Service, dict[str, str]] = {}

    def register(self, service: Service) -> None:
        """Look at a service's requests."""
        self._hosts.setdefault(service, {})
        service.hooks.register(self.name, "start_http_request", self._start)

    def unregister(self, service: Service) -> None:
        """Forget a service's hosts."""
        self._hosts.pop(service, None)

    def dump(self, service: Service) -> list[str]:
        """The REDIRECT lines of a service; they mean the one that was created last."""
        hosts = sorted(self._hosts.get(service, {}).items())
        return [f"REDIRECT HOST {pattern} {target}" for pattern, target in hosts]

    def _redirect(self, balancer: Balancer, command: Command) -> None:
        usage = "usage: REDIRECT HOST <match_host> <target_host>"
        pattern, target = command.match(_REDIRECT, usage).groups()
        service = service_meant(balancer, command)
        if service not in self._hosts:
            raise CommandError(f"service {service.name} does not use redirect; SET plugins = ...")
        if not _hosts.PATTERN.fullmatch(pattern):
            raise CommandError(f"'{pattern}' is no host; write example.com, *.example.com or *")
        if not _TARGET.fullmatch(target):
            raise CommandError(f"'{target}' is no host to go to; write example.com[:port]")
        self._hosts[service][pattern] = target
        command.ok()

    def _start(self, client: ClientConnection) -> bool:
        request = client.request
        target = _hosts.find(request.host, self._hosts.get(client.service, {}))
        if target is None or not request.target.startswith(b"/"):
            return False
        scheme = "http" if client.transport.get_extra_info("sslcontext") is None else "https"
        place = f"{scheme}://{target}{request.target.decode('latin-1')}"
        status = 301 if request.method in (b"GET", b"HEAD") else 308
        client.answer(status, (("Location", place),))
        return True


plugin = Redirect()
"""What LOAD takes; each balancer of a process shares it."""
