"""AccessControl: who may ask a service, by address.

::

    LOAD accesscontrol
    CREATE SERVICE inside
      SET role    = reverse_proxy
      SET pool    = webs
      SET listen  = 80
      SET plugins = accesscontrol
      ACCESS ALLOW     netmask 10.0.0.0/8     # the first rule that matches decides
      ACCESS QUEUE_LOW netmask 192.0.2.0/24   # served, but from the low queue
      ACCESS QUEUE_HIGH ip     10.9.9.9       # from the high one (the kit's own)
      ACCESS DENY      ip      203.0.113.9    # 403
      ACCESS POLICY deny                      # who matches no rule; allow unless it is set
    ENABLE inside

``ACCESS RESET`` takes all rules and the policy away.  With ``SET
inside.accesscontrol.use_observed_ip = on``, the address is the one that trusted proxies tell
(``trusted_upstream_proxies``).

Source: Perlbal::Plugin::AccessControl of Perlbal 1.80.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command
from lj_services.perlbal.plugin import Plugin, service_meant
from lj_services.perlbal.proxy.headers import in_networks, observed_ip
from lj_services.perlbal.values import BOOL, Network

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

_ACCESS = re.compile(r"access (policy|allow|deny|reset|queue_low|queue_high)(?: (\S+))?(?: (\S+))?")


@dataclass
class Rules:
    """What one service allows: rules in order, and what becomes of everybody else."""

    rules: list[tuple[str, str, Network]] = field(default_factory=list)
    """What to do (the word of ACCESS), whether it was written as ip or netmask, and to whom."""
    policy: str = "allow"
    use_observed_ip: bool = False

    def verdict(self, address: str) -> str:
        """What becomes of a client: one of the words of ACCESS, in lower case."""
        for action, _, network in self.rules:
            if in_networks(address, (network,)):
                return action
        return self.policy


class AccessControl(Plugin):
    """The plug-in, for all services."""

    title = "AccessControl"

    def __init__(self) -> None:
        super().__init__()
        self.commands = {"access": self._access}
        self._rules: dict[Service, Rules] = {}

    def register(self, service: Service) -> None:
        """Look at a service's clients."""
        self._rules.setdefault(service, Rules())
        service.hooks.register(self.name, "start_http_request", self._start)
        service.hooks.register(self.name, "make_low_priority", self._low)
        service.hooks.register(self.name, "make_high_priority", self._high)

    def unregister(self, service: Service) -> None:
        """Forget a service's rules."""
        self._rules.pop(service, None)

    def set(self, service: Service, key: str, value: str) -> bool:
        """``use_observed_ip``."""
        if key != "use_observed_ip":
            return False
        try:
            self._rules[service].use_observed_ip = BOOL.parse(value, key)
        except ValueError as error:
            raise CommandError(str(error)) from None
        return True

    def dump(self, service: Service) -> list[str]:
        """The ACCESS lines of a service; they mean the one that was created last."""
        rules = self._rules.get(service, Rules())
        lines = [
            f"ACCESS {action.upper()} {what} {network.network_address if what == 'ip' else network}"
            for action, what, network in rules.rules
        ]
        if rules.policy != "allow":
            lines.append(f"ACCESS POLICY {rules.policy}")
        if rules.use_observed_ip:
            lines.append(f"SET {service.name}.{self.name}.use_observed_ip = on")
        return lines

    def _access(self, balancer: Balancer, command: Command) -> None:
        usage = "usage: ACCESS <cmd> <arg1> [<arg2>]"
        action, what, value = command.match(_ACCESS, usage).groups()
        service = service_meant(balancer, command)
        rules = self._rules.get(service)
        if rules is None:
            raise CommandError(
                f"service {service.name} does not use accesscontrol; SET plugins = ..."
            )
        if action == "reset":
            rules.rules.clear()
            rules.policy = "allow"
        elif action == "policy":
            if what not in ("allow", "deny"):
                raise CommandError("policy must be 'allow' or 'deny'")
            rules.policy = what
        elif what not in ("ip", "netmask"):
            raise CommandError(f"Unknown item to {action}: '{what or ''}'")
        else:
            rules.rules.append((action, what, _network(what, value or "")))
        command.ok()

    def _verdict(self, client: ClientConnection) -> str:
        rules = self._rules[client.service]
        address = client.peer
        if rules.use_observed_ip:
            address = observed_ip(client.service, client.request, client.peer) or address
        return rules.verdict(address)

    def _start(self, client: ClientConnection) -> bool:
        if self._verdict(client) != "deny":
            return False
        client.error(403, "Access denied.")
        return True

    def _low(self, client: ClientConnection) -> bool:
        return self._verdict(client) == "queue_low"

    def _high(self, client: ClientConnection) -> bool:
        return self._verdict(client) == "queue_high"


def _network(what: str, text: str) -> Network:
    """What a rule is about.

    Raises:
        CommandError: it is no address, or no network.
    """
    try:
        if what == "ip":
            return ipaddress.ip_network(ipaddress.ip_address(text))
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise CommandError(f"Error parsing {what}: {error}") from None


plugin = AccessControl()
"""What LOAD takes; each balancer of a process shares it."""
