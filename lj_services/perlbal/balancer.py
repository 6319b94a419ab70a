"""The balancer: all services, pools, nodes and plug-ins, and the commands that change them.

One object holds everything; a configuration file and the console do nothing but give it
lines (`run`).  Time comes to it from outside (`tick`), and sockets are its listeners' and
connections' business.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from lj_services.daemon import ConnectionLimits
from lj_services.perlbal.bus import Bus
from lj_services.perlbal.commands import COMMANDS
from lj_services.perlbal.connection import HttpConnection
from lj_services.perlbal.errors import CommandError, ConfigFileError
from lj_services.perlbal.frontend import ClientConnection
from lj_services.perlbal.language import Command, Context, parse_line
from lj_services.perlbal.listening import bind, bind_datagrams
from lj_services.perlbal.management import ManagementRole
from lj_services.perlbal.nodes import Nodes
from lj_services.perlbal.plugin import Plugin, find
from lj_services.perlbal.pools import CHECK_EVERY_S, Pool
from lj_services.perlbal.proxy.progress import TOPIC, Tracker
from lj_services.perlbal.proxy.role import ProxyRole
from lj_services.perlbal.proxy.spool import SpoolRoom
from lj_services.perlbal.selector import SelectorRole
from lj_services.perlbal.service import RoleMaker, Service
from lj_services.perlbal.tracker import TrackerRole
from lj_services.perlbal.tunables import TUNABLES, Tunable, nearest
from lj_services.perlbal.values import Listen
from lj_services.perlbal.web.role import WebServerRole
from lj_services.perlbal.web.send_buffer import LargeBuffers

ROLES: Final[Mapping[str, RoleMaker]] = {
    "reverse_proxy": ProxyRole,
    "selector": SelectorRole,
    "web_server": WebServerRole,
    "management": ManagementRole,
    "upload_tracker": TrackerRole,
}

log = logging.getLogger(__name__)


class Connection(Protocol):
    """What the console wants to know of a connection."""

    kind: str
    """The original's name of its class."""
    created: float
    """Loop time."""

    @property
    def service_name(self) -> str:
        """The service that it works for."""

    @property
    def unsent(self) -> int:
        """Bytes that wait to be sent."""

    @property
    def has_file(self) -> bool:
        """Whether a file is open for it."""

    @property
    def state(self) -> str:
        """What it is doing, in the original's word."""

    @property
    def fd(self) -> int:
        """The socket's number."""

    def describe(self) -> str:
        """One line about it."""


class Balancer:
    """Everything that one process balances.

    Args:
        limits: how many clients there may be.
        plugin_folders: where LOAD looks before the package's own plug-ins.
        shut_down: called by SHUTDOWN with whether to be graceful, and with seconds or None.
    """

    def __init__(
        self,
        limits: ConnectionLimits,
        plugin_folders: tuple[Path, ...] = (),
        shut_down: Callable[[bool, float | None], None] | None = None,
    ) -> None:
        self.limits = limits
        self.services: dict[str, Service] = {}
        self.pools: dict[str, Pool] = {}
        self.nodes = Nodes()
        self.plugins: dict[str, Plugin] = {}
        self.defaults: dict[str, str] = {}
        self.tunables: dict[str, Tunable] = dict(TUNABLES)
        self.roles: dict[str, RoleMaker] = dict(ROLES)
        self.connections: set[Connection] = set()
        self.clients: set[HttpConnection] = set()
        self.started = int(time.time())
        self.now = 0.0
        """The loop's time, in seconds, as of the newest tick."""
        self.wall = self.started
        """Seconds since 1970, as of the newest tick."""
        self.requests = 0
        self.bus = Bus()
        self.uploads = Tracker()
        """What is known of uploads, where a service tracks them."""
        self.bus.subscribe(TOPIC, lambda _at, text: self.uploads.heard(text.encode(), self.now))
        self.spool_room = SpoolRoom()
        self.large_buffers = LargeBuffers()
        self.draining = False
        self.idle_s = 0.0
        """How long, while draining, clients may still ask for something."""
        self.running = False
        """Whether the configuration has been read, so that what is for start-up is too late."""
        self.pidfile: Path | None = None
        self.last_proc = (0.0, 0.0, 0)
        self.plugin_folders = plugin_folders
        self.shut_down = shut_down
        self.open_socket: Callable[[Listen, int], socket.socket] = bind
        """Gives what a service listens on; raises OSError."""
        self.open_datagrams: Callable[[Listen], socket.socket] = bind_datagrams
        """The same for datagrams."""
        self.console_at: Callable[[Listen], None] | None = None
        """Told where a console should be, where several processes have one together."""
        self._pools_checked = 0.0
        self._pools_made_by_hand = False

    # -- commands -----------------------------------------------------------------

    def run(self, line: str, context: Context) -> tuple[list[str], bool]:
        """Carry out one line; returns what is answered, and whether it went well."""
        command: Command | None = None
        try:
            command = parse_line(line, context)
            if command is None:
                return [], True
            self._carry_out(command)
        except CommandError as error:
            lines = [] if command is None else command.lines
            return [*lines, f"ERROR: {error}"], False
        return command.lines, True

    async def answer(self, line: str, context: Context) -> list[str]:
        """Carry out one line of a console; returns what is answered."""
        return self.run(line, context)[0]

    def _carry_out(self, command: Command) -> None:
        own = COMMANDS.get(command.name)
        if own is not None:
            own(self, command)
            return
        for plugin in self.plugins.values():
            of_plugin = plugin.commands.get(command.name)
            if of_plugin is not None:
                of_plugin(self, command)
                return
        raise CommandError(f"unknown command: {command.name}")

    def commands(self) -> list[str]:
        """The first words of all commands there are."""
        return sorted(set(COMMANDS) | {n for p in self.plugins.values() for n in p.commands})

    def load_file(self, file: Path) -> None:
        """Carry out a configuration file; stops at the first line that is refused.

        Raises:
            ConfigFileError: the file can't be read, or a line is refused.
        """
        self.load_text(read_config(file), str(file))

    def load_text(self, text: str, name: str) -> None:
        """Carry out lines; `name` is where they are from, for errors.

        Raises:
            ConfigFileError: a line is refused.
        """
        context = Context()
        for number, line in enumerate(text.splitlines(), 1):
            answer, well = self.run(line, context)
            if not well:
                why = answer[-1].removeprefix("ERROR: ")
                raise ConfigFileError(f"{name}, line {number}: {line.strip()}: {why}")
            for said in answer:
                log.info(said, extra={"file": name, "line": number})

    # -- services and pools -------------------------------------------------------

    def service(self, name: str) -> Service:
        """The service called `name`.

        Raises:
            CommandError: there is none.
        """
        found = self.services.get(name) or self.services.get(name.lower())
        if found is None:
            raise CommandError(nearest(name, self.services, "service"))
        return found

    def pool(self, name: str) -> Pool:
        """The pool called `name`.

        Raises:
            CommandError: there is none.
        """
        found = self.pools.get(name) or self.pools.get(name.lower())
        if found is None:
            raise CommandError(f"Pool '{name}' not found" + _near(name, self.pools))
        return found

    def create_service(self, name: str) -> None:
        """CREATE SERVICE.  Raises CommandError if the name is taken."""
        self._must_be_free(name)
        self.services[name] = Service(name, self)

    def create_pool(self, name: str, *, by_hand: bool = True) -> Pool:
        """CREATE POOL.  Raises CommandError if the name is taken."""
        self._must_be_free(name)
        self._pools_made_by_hand |= by_hand
        pool = self.pools[name] = Pool(name)
        return pool

    def _must_be_free(self, name: str) -> None:
        if name in self.services:
            raise CommandError(f"service '{name}' already exists")
        if name in self.pools:
            raise CommandError(f"pool '{name}' already exists")

    def use_pool(self, service: Service, name: str) -> None:
        """Count a service in at the pool called `name`, and out at its old one.

        Raises:
            CommandError: there is no such pool.
        """
        pool = self.pool(name) if name else None
        old = self.pools.get(service.parameters.pool)
        if old is not None:
            old.services -= 1
        if pool is not None:
            pool.services += 1

    def pool_of(self, service: Service, key: str) -> Pool:
        """The pool that ``SET service.nodefile`` means, as was written before there were pools.

        Raises:
            CommandError: the service has no pool, and pools were made already.
        """
        if service.parameters.pool:
            return self.pools[service.parameters.pool]
        if self._pools_made_by_hand:
            raise CommandError(
                f"No pool defined for service; CREATE POOL, and SET pool.{key} = ... there"
            )
        pool = self.create_pool(f"{service.name}_pool", by_hand=False)
        service.set("pool", pool.name)
        return pool

    def defaults_for(self, role: str) -> list[tuple[str, Any]]:
        """What DEFAULT has set, as far as services of this role have it."""
        return [
            (name, tunable.parse(text, role))
            for name, text in self.defaults.items()
            if (tunable := self.tunables[name]).role in ("", role)
        ]

    # -- plug-ins -----------------------------------------------------------------

    def load_plugin(self, name: str) -> None:
        """LOAD.  Raises CommandError if it can't be loaded."""
        name = name.lower()
        if name in self.plugins:
            return
        plugin = find(name, self.plugin_folders)
        plugin.load(self)
        self.plugins[name] = plugin
        for tunable in plugin.tunables:
            self.tunables[tunable.name] = tunable
            for service in self.services.values():
                setattr(service.parameters, tunable.name, tunable.default)
        self.roles.update(plugin.roles)

    def unload_plugin(self, name: str) -> None:
        """UNLOAD.  Raises CommandError if it is not loaded, or in use."""
        plugin = self.loaded_plugin(name.lower())
        users = [
            service.name
            for service in self.services.values()
            if plugin in service.plugins or service.parameters.role in plugin.roles
        ]
        if users:
            raise CommandError(f"plugin {plugin.title} works on {', '.join(users)}")
        plugin.unload(self)
        del self.plugins[plugin.name]
        for tunable in plugin.tunables:
            del self.tunables[tunable.name]
        for role in plugin.roles:
            del self.roles[role]

    def loaded_plugin(self, name: str) -> Plugin:
        """The plug-in called `name`.

        Raises:
            CommandError: it is not loaded.
        """
        if name not in self.plugins:
            raise CommandError(f"Plugin {name} not loaded; LOAD {name}" + _near(name, self.plugins))
        return self.plugins[name]

    # -- life ---------------------------------------------------------------------

    def client_connection(self, service: Service) -> ClientConnection:
        """A protocol for a client of `service` that speaks HTTP."""
        return ClientConnection(service)

    def tick(self, now: float) -> None:
        """Let time pass; called a few times a second with the loop's time."""
        self.now = now
        self.wall = int(time.time())
        for client in list(self.clients):
            client.tick(now)
        for pool in self.pools.values():
            pool.let_in(now)
        for service in self.services.values():
            if service.role is not None:
                service.role.tick(now)
            if service.access_log is not None:
                service.access_log.flush(now)
        if now - self._pools_checked >= CHECK_EVERY_S:
            self._pools_checked = now
            for pool in self.pools.values():
                pool.check_nodefile()

    def drain(self, idle_s: float = 0.0) -> None:
        """Listen no more, and let every client go after what it is having done.

        Args:
            idle_s: how long clients that have nothing done may still ask for something.
        """
        self.draining = True
        self.idle_s = idle_s
        for service in self.services.values():
            if service.listener is not None:
                service.listener.close()
        for client in list(self.clients):
            client.drain(idle_s)

    def close(self) -> None:
        """Cut everybody off, and give everything back."""
        self.draining = True
        for service in self.services.values():
            service.close()
        for client in list(self.clients):
            client.abort()


def read_config(file: Path) -> str:
    """A configuration file's text.

    Raises:
        ConfigFileError: it can't be read.
    """
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"{file}: can't be read: {error}") from None


def _near(name: str, known: Mapping[str, object]) -> str:
    _, semicolon, near = nearest(name, known, "").partition(";")
    return semicolon + near
