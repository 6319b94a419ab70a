"""Highpri: requests that go before others, by path and host.

::

    LOAD highpri
    CREATE SERVICE web
      SET role    = reverse_proxy
      SET pool    = webs
      SET listen  = 80
      SET plugins = highpri
      SET highpri.uri_pattern  = ^/interface/
      SET highpri.host_pattern = ^pay\\.
    ENABLE web

What matches either pattern waits in the high queue.  Unless it is set, ``uri_pattern`` is what
LiveJournal's clients and log-ins used; ``none`` switches a pattern off.  ``patterns`` on the
console shows them.

Source: Perlbal::Plugin::Highpri of Perlbal 1.80.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lj_services.perlbal.language import Command
from lj_services.perlbal.plugin import Plugin, regexp

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

_USUAL = rb"^(?:/interface/(?:xmlrpc|flat)|/login\.bml)$"


@dataclass
class Patterns:
    """One service's patterns; None: nothing matches."""

    uri_pattern: re.Pattern[bytes] | None
    host_pattern: re.Pattern[bytes] | None = None


class Highpri(Plugin):
    """The plug-in, for all services."""

    title = "Highpri"

    def __init__(self) -> None:
        super().__init__()
        self.commands = {"patterns": self._show}
        self._patterns: dict[Service, Patterns] = {}

    def register(self, service: Service) -> None:
        """Look at a service's requests."""
        self._patterns.setdefault(service, Patterns(re.compile(_USUAL)))
        service.hooks.register(self.name, "make_high_priority", self._is_high)

    def unregister(self, service: Service) -> None:
        """Forget a service's patterns."""
        self._patterns.pop(service, None)

    def set(self, service: Service, key: str, value: str) -> bool:
        """``uri_pattern`` and ``host_pattern``."""
        if key not in ("uri_pattern", "host_pattern"):
            return False
        pattern = None if value in ("none", "undef", "null") else regexp(value)
        setattr(self._patterns[service], key, pattern)
        return True

    def dump(self, service: Service) -> list[str]:
        """The SET lines of a service."""
        patterns = self._patterns[service]
        return [
            f"SET {service.name}.{self.name}.{key} = {_shown(getattr(patterns, key))}"
            for key in ("uri_pattern", "host_pattern")
        ]

    def _show(self, _balancer: Balancer, command: Command) -> None:
        command.no_arguments()
        command.out("High priority pattern buffer:")
        for service in self._patterns:
            for line in self.dump(service):
                command.out(line)
        command.end()

    def _is_high(self, client: ClientConnection) -> bool:
        patterns = self._patterns[client.service]
        uri, host = patterns.uri_pattern, patterns.host_pattern
        request = client.request
        return bool(
            (uri is not None and uri.search(request.target))
            or (host is not None and host.search(request.host))
        )


def _shown(pattern: re.Pattern[bytes] | None) -> str:
    return "none" if pattern is None else pattern.pattern.decode()


plugin = Highpri()
"""What LOAD takes; each balancer of a process shares it."""
