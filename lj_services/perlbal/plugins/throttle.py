"""Throttle: makes clients that ask too often wait, longer each time.

::

    LOAD throttle
    CREATE SERVICE web
      SET role    = reverse_proxy
      SET pool    = webs
      SET listen  = 80
      SET plugins = throttle
      SET whitelist_file             = /etc/perlbal/friends    # a network a line; never throttled
      SET path_regex                 = ^/login                 # only these paths
      SET throttle_threshold_seconds = 10
    ENABLE web

An address that asks again within ``throttle_threshold_seconds`` has its request held for
``initial_delay`` seconds, then twice as long, up to ``max_delay``; only then does a node get
it.  With more than ``max_concurrent`` requests held, further ones are answered 403; after
``ban_threshold`` violations (0: never) the address is, for ``ban_expiration`` seconds.  An
address is forgotten once it has been quiet for long enough.  The address is the one that
trusted proxies tell, if there are any.

``throttle reload whitelist`` and ``throttle reload blacklist`` on the console read a file
again (after ``USE service``).  With ``log_only``, everything is judged and logged, and let through.

Source: Perlbal::Plugin::Throttle 1.20 of Perlbal 1.80.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command
from lj_services.perlbal.plugin import Plugin, service_meant
from lj_services.perlbal.plugins._throttling import EVENTS, Throttler, Verdict, read_networks
from lj_services.perlbal.proxy.headers import observed_ip
from lj_services.perlbal.tunables import Tunable
from lj_services.perlbal.values import BOOL, FILE, INT, REGEXP, TEXT, WORDS, Kind

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.proxy.exchange import Exchange
    from lj_services.perlbal.service import Service

log = logging.getLogger(__name__)

_THROTTLE = re.compile(r"throttle reload (whitelist|blacklist|config)")


def _choice(*words: str) -> Kind:
    def parse(text: str, key: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"Expecting {' or '.join(words)} for parameter '{key}'")
        return text.lower()

    return Kind("choice", parse)


def _events(text: str, key: str) -> tuple[str, ...]:
    words: tuple[str, ...] = WORDS.parse(text.lower(), key)
    if unknown := set(words) - EVENTS - {"all", "none"}:
        known = ", ".join((*sorted(EVENTS), "all", "none"))
        raise ValueError(f"no such event: {', '.join(sorted(unknown))}; there are {known}")
    return words


TUNABLES: Final = (
    Tunable("whitelist_file", FILE, None, "networks, one a line, that are never throttled"),
    Tunable("blacklist_file", FILE, None, "networks, one a line, that are refused"),
    Tunable(
        "default_action",
        _choice("throttle", "allow"),
        "throttle",
        "what happens to addresses in neither file",
    ),
    Tunable(
        "blacklist_action",
        _choice("deny", "throttle"),
        "deny",
        "whether addresses in the blacklist are refused or throttled",
    ),
    Tunable("path_regex", REGEXP, None, "throttle only requests whose path matches"),
    Tunable("method_regex", REGEXP, None, "throttle only requests whose method matches"),
    Tunable(
        "throttle_threshold_seconds",
        INT,
        60,
        "how long an address must be quiet before it may ask at once",
        unit="seconds",
    ),
    Tunable("initial_delay", INT, 3, "how long the first request too many waits", unit="seconds"),
    Tunable("max_delay", INT, 300, "how long a request waits at most", unit="seconds"),
    Tunable("max_concurrent", INT, 2, "requests of one address that wait; more are refused"),
    Tunable("ban_threshold", INT, 0, "violations after which an address is refused; 0: never"),
    Tunable("ban_expiration", INT, 60, "for how long it is refused", unit="seconds"),
    Tunable("log_events", Kind("list", _events, ", ".join), ("all",), "what is logged"),
    Tunable("log_only", BOOL, False, "judge and log, and let everything through"),
    Tunable(
        "memcached_servers",
        TEXT,
        "",
        "where several balancers share what they know",
        refused="each process judges for itself",
    ),
    Tunable(
        "memcached_async_clients",
        INT,
        10,
        "connections to them",
        refused="each process judges for itself",
    ),
    Tunable(
        "instance_name",
        TEXT,
        "Throttle",
        "whom it is shared with",
        refused="each process judges for itself",
    ),
)


class Throttle(Plugin):
    """The plug-in, for all services."""

    title = "Throttle"

    def __init__(self) -> None:
        super().__init__()
        self.tunables = TUNABLES
        self.commands = {"throttle": self._throttle}
        self._throttlers: dict[Service, Throttler] = {}
        self._held: dict[Exchange, tuple[str, asyncio.TimerHandle]] = {}
        self._passed: set[Exchange] = set()

    def register(self, service: Service) -> None:
        """Judge a reverse proxy's requests.

        Raises:
            CommandError: it is none, or a list can't be read.
        """
        if service.parameters.role != "reverse_proxy":
            raise CommandError("Throttle works on a service with the role reverse_proxy")
        if service not in self._throttlers:
            throttler = Throttler(service.parameters)
            for which in ("whitelist", "blacklist"):
                if service.parameters[f"{which}_file"] is not None:
                    self._read(throttler, which)
            self._throttlers[service] = throttler
        service.hooks.register(self.name, "proxy_read_request", self._judge)
        service.hooks.register(self.name, "end_proxy_request", self._ended)

    def unregister(self, service: Service) -> None:
        """Forget what is known about a service's clients; who waits goes on at once."""
        self._throttlers.pop(service, None)
        for exchange in [each for each in self._held if each.role.service is service]:
            self._release(exchange)

    # -- the console --------------------------------------------------------------

    def _throttle(self, balancer: Balancer, command: Command) -> None:
        usage = "usage: throttle reload <config|whitelist|blacklist>"
        what = command.match(_THROTTLE, usage)[1]
        service = service_meant(balancer, command)
        throttler = self._throttlers.get(service)
        if throttler is None:
            raise CommandError(f"service {service.name} does not use throttle; SET plugins = ...")
        # Parameters are looked at for every request: there is nothing to reload of them.
        if what != "config":
            self._read(throttler, what)
        command.ok()

    def _read(self, throttler: Throttler, which: str) -> None:
        file = throttler.settings[f"{which}_file"]
        if file is None:
            raise CommandError(f"no {which} file configured")
        try:
            throttler.lists[which] = read_networks(file)
        except (OSError, ValueError) as error:
            raise CommandError(f"Couldn't load {file}: {error}") from None

    # -- requests -----------------------------------------------------------------

    def _judge(self, exchange: Exchange) -> bool:
        if exchange in self._passed:
            return False  # it is tried again with another node
        role = exchange.role
        client = exchange.client
        request = exchange.request
        address = observed_ip(role.service, request, client.peer) or client.peer
        throttler = self._throttlers[role.service]
        loop = asyncio.get_running_loop()
        verdict = throttler.judge(address, request.target, request.method, loop.time())
        self._log(throttler, verdict, address)
        if verdict.allowed or throttler.settings["log_only"]:
            self._passed.add(exchange)
            return False
        if verdict.delay is None:
            client.error(403, "You are asking too often." if verdict.event != "blacklisted" else "")
            role.ended(exchange)
            return True
        throttler.held[address] += 1
        timer = loop.call_later(verdict.delay, self._release, exchange)
        self._held[exchange] = (address, timer)
        return True

    def _log(self, throttler: Throttler, verdict: Verdict, address: str) -> None:
        wanted = throttler.settings["log_events"]
        if verdict.event and ("all" in wanted or verdict.event in wanted):
            log.info(
                "throttle: %s",
                verdict.event,
                extra={"client": address, "delay_s": verdict.delay or 0},
            )

    def _release(self, exchange: Exchange) -> None:
        """It has waited: go on with it."""
        self._forget(exchange)
        self._passed.add(exchange)
        exchange.role.request_backend(exchange)

    def _forget(self, exchange: Exchange) -> None:
        held = self._held.pop(exchange, None)
        if held is not None:
            address, timer = held
            timer.cancel()
            throttler = self._throttlers.get(exchange.role.service)
            if throttler is not None:
                throttler.no_longer_held(address)

    def _ended(self, exchange: Exchange) -> None:
        self._forget(exchange)
        self._passed.discard(exchange)


plugin = Throttle()
"""What LOAD takes; each balancer of a process shares it."""
