"""What Highpri and Lowpri have in common: patterns that requests are held against.

``uri_pattern`` is held against path and query, ``host_pattern`` against Host, ``agent_pattern``
against User-Agent (nothing, if there is none: ``^$``), ``header_pattern`` against each field as
``name: value`` with the name in lower case.  Any that matches is enough.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.language import Command
from lj_services.perlbal.plugin import Plugin, regexp

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

ALWAYS_SHOWN: Final = ("uri_pattern", "host_pattern")
KEYS: Final = (*ALWAYS_SHOWN, "agent_pattern", "header_pattern")

Patterns = dict[str, re.Pattern[bytes]]


class ByPattern(Plugin):
    """A plug-in that puts a service's requests into another queue, by patterns.

    Args:
        point: the hook's name.
        command: of the console; shows the patterns.
        said: what it says first.
        usual: ``uri_pattern`` unless it is set.
    """

    def __init__(self, point: str, command: str, said: str, usual: bytes | None = None) -> None:
        super().__init__()
        self.commands = {command: self._show}
        self._point = point
        self._said = said
        self._usual = {} if usual is None else {"uri_pattern": re.compile(usual)}
        self._patterns: dict[Service, Patterns] = {}

    def register(self, service: Service) -> None:
        """Look at a service's requests."""
        self._patterns.setdefault(service, dict(self._usual))
        service.hooks.register(self.name, self._point, self._matches)

    def unregister(self, service: Service) -> None:
        """Forget a service's patterns."""
        self._patterns.pop(service, None)

    def set(self, service: Service, key: str, value: str) -> bool:
        """One of `KEYS`; ``none`` switches it off."""
        if key not in KEYS:
            return False
        if value in ("none", "undef", "null"):
            self._patterns[service].pop(key, None)
        else:
            self._patterns[service][key] = regexp(value)
        return True

    def dump(self, service: Service) -> list[str]:
        """The SET lines of a service."""
        patterns = self._patterns[service]
        return [
            f"SET {service.name}.{self.name}.{key} = {_shown(patterns.get(key))}"
            for key in KEYS
            if key in ALWAYS_SHOWN or key in patterns
        ]

    def _show(self, _balancer: Balancer, command: Command) -> None:
        command.no_arguments()
        command.out(self._said)
        for service in self._patterns:
            for line in self.dump(service):
                command.out(line)
        command.end()

    def _matches(self, client: ClientConnection) -> bool:
        request = client.request
        fields = request.fields
        for key, pattern in self._patterns[client.service].items():
            if key == "uri_pattern":
                found = pattern.search(request.target)
            elif key == "host_pattern":
                found = pattern.search(request.host)
            elif key == "agent_pattern":
                found = pattern.search(fields.get(b"user-agent", b""))
            else:
                found = _first(pattern, fields)
            if found is not None:
                return True
        return False


def _first(pattern: re.Pattern[bytes], fields: dict[bytes, bytes]) -> re.Match[bytes] | None:
    for field in fields.items():
        if (found := pattern.search(b"%b: %b" % field)) is not None:
            return found
    return None


def _shown(pattern: re.Pattern[bytes] | None) -> str:
    return "none" if pattern is None else pattern.pattern.decode()
