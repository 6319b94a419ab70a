"""A service: a name, a role, parameters, plug-ins; whether it is enabled, and what it listens on.

What a service does with requests is its role's business (`Role`); the role is made when
``SET role`` names it, and asked whenever a request for the service has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lj_services.perlbal.access import FORMATS, AccessLog
from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.hooks import Hooks
from lj_services.perlbal.listening import Listener
from lj_services.perlbal.parameters import Parameters
from lj_services.perlbal.plugin import Plugin
from lj_services.perlbal.tunables import nearest

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.tls import Tls

log = logging.getLogger(__name__)

LINES_ORDER = ("role", "listen", "pool")


class Listening(Protocol):
    """What a service listens with."""

    address: str
    port: int
    fd: int

    @property
    def tls(self) -> Tls | None:
        """Certificates and how they are used, where clients speak TLS."""

    def close(self) -> None:
        """Listen no more."""


class Role(Protocol):
    """What a service does, by its role."""

    def connection(self) -> asyncio.BaseProtocol:
        """A protocol for a client that has connected to the service's own address."""

    def listen(self) -> Listening:
        """Listen at the service's address.

        Raises:
            CommandError: that can't be done.
        """

    def start(self, client: ClientConnection) -> None:
        """Take on ``client.request``: its head is complete, its body may follow."""

    def changed(self, key: str) -> None:
        """A parameter has changed, or (``header``) HEADER's rules have."""

    def tick(self, now: float) -> None:
        """Time has passed: called about once a second with the loop's time."""

    def describe(self) -> list[str]:
        """Lines for ``show service NAME``, behind those that every service has."""

    def check(self) -> None:
        """Refuse to be enabled while something is missing.

        Raises:
            CommandError: what, and how to set it.
        """

    def close(self) -> None:
        """The service is going: give back what is held."""


class BaseRole:
    """A role with nothing to say beyond what it must."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def connection(self) -> asyncio.BaseProtocol:
        """A protocol for HTTP."""
        return self.service.balancer.client_connection(self.service)

    def listen(self) -> Listening:
        """Accept connections."""
        return Listener(self.service)

    def changed(self, key: str) -> None:
        """Nothing has to be done."""

    def tick(self, now: float) -> None:
        """Nothing has to be done."""

    def describe(self) -> list[str]:
        """Nothing."""
        return []

    def check(self) -> None:
        """Nothing is missing."""

    def close(self) -> None:
        """Nothing is held."""


RoleMaker = Callable[["Service"], Role]


class Service:
    """One service of a balancer.

    Attributes:
        name: in lower case.
        parameters: what SET has set, and defaults.
        hooks: what its plug-ins wait for.
        extra: what ``SET extra.key`` and plug-ins keep.
        insert, remove: HEADER's rules for requests to nodes.
        role: None until ``SET role``.
        requests: how many it was asked.
        access_log: where they are written down, if they are.
    """

    def __init__(self, name: str, balancer: Balancer) -> None:
        self.name = name
        self.balancer = balancer
        self.parameters = Parameters(balancer.tunables)
        self.hooks = Hooks()
        self.extra: dict[str, Any] = {}
        self.plugins: list[Plugin] = []
        self.insert: list[tuple[bytes, bytes]] = []
        self.remove: list[bytes] = []
        self.role: Role | None = None
        self.enabled = False
        self.requests = 0
        self.listener: Listening | None = None
        self.access_log: AccessLog | None = None

    # -- SET ----------------------------------------------------------------------

    def set(self, key: str, text: str) -> None:
        """Carry out ``SET name.key = text``.

        Raises:
            CommandError: it is refused; the answer says why.
        """
        if key in ("nodefile", "balance_method"):
            self.balancer.pool_of(self, key).set(key, text)
        elif (tunable := self.balancer.tunables.get(key)) is not None:
            value = tunable.parse(text, self.parameters.role)
            self._apply(key, value)
        elif key.startswith("extra.") and len(key) > 6:
            self.extra[key[6:]] = text
        elif "." in key:
            self._set_of_plugin(key, text)
        else:
            raise CommandError(nearest(key, self.known(), "service parameter"))

    def _apply(self, key: str, value: Any) -> None:
        if key == "role":
            self._set_role(value)
            return
        if key == "plugins":
            self._set_plugins(value)
            if self.role is not None:
                self.role.changed(key)
            return
        if key == "pool":
            self.balancer.use_pool(self, value)
        elif key == "default_service" and value:
            value = self.balancer.service(value).name
        elif key == "persist_client_timeout":
            self.parameters.persist_client_idle_timeout = value
            self.parameters.idle_timeout = value
        before = getattr(self.parameters, key)
        setattr(self.parameters, key, value)
        if key in ("access_log", "access_log_format"):
            self._open_access_log(key, before)
        if key in ("listen", "enable_ssl") and self.enabled and value != before:
            self._listen_anew(key, before)
        if self.role is not None:
            self.role.changed(key)

    def _open_access_log(self, key: str, before: Any) -> None:
        """Write to another file, or in another form."""
        path, form = self.parameters.access_log, self.parameters.access_log_format
        try:
            if form not in FORMATS:
                raise CommandError(f"access_log_format: there are {', '.join(FORMATS)}")
            opened = AccessLog(Path(path), form, self.name) if path else None
        except CommandError:
            setattr(self.parameters, key, before)
            raise
        except OSError as error:
            setattr(self.parameters, key, before)
            raise CommandError(f"access log {path}: {error.strerror}") from None
        if self.access_log is not None:
            self.access_log.close()
        self.access_log = opened

    def known(self) -> list[str]:
        """The parameters that this service's role has."""
        role = self.parameters.role
        return [t.name for t in self.balancer.tunables.values() if not t.role or t.role == role]

    def _set_role(self, name: str) -> None:
        maker = self.balancer.roles.get(name)
        if maker is None:
            known = ", ".join(sorted(self.balancer.roles))
            raise CommandError(f"Role not valid for service {self.name}; there are {known}")
        if self.role is not None:
            if self.parameters.role == name:
                return
            raise CommandError(
                f"service {self.name} is a {self.parameters.role} already; create another one"
            )
        self.parameters.role = name
        self.role = maker(self)
        for tunable, value in self.balancer.defaults_for(name):
            self._apply(tunable, value)

    def _set_plugins(self, names: tuple[str, ...]) -> None:
        wanted = [
            self.balancer.loaded_plugin(name)
            for name in dict.fromkeys(map(str.lower, names))
            if name != "none"
        ]
        before = self.plugins
        try:
            self._work_with(wanted)
        except CommandError:
            # What the service did so far (who is denied, and so on) holds.
            self._work_with(before)
            self._forget(wanted, before)
            raise
        self._forget(before, wanted)
        self.plugins = wanted
        self.parameters.plugins = tuple(plugin.name for plugin in wanted)

    def _work_with(self, plugins: list[Plugin]) -> None:
        """Have the hooks of these plug-ins, in this order, and no others."""
        self.hooks.by_point.clear()
        for plugin in plugins:
            plugin.register(self)

    def _forget(self, plugins: list[Plugin], kept: list[Plugin]) -> None:
        for plugin in plugins:
            if plugin not in kept:
                plugin.unregister(self)

    def _set_of_plugin(self, key: str, text: str) -> None:
        name, _, rest = key.partition(".")
        for plugin in self.plugins:
            if plugin.name == name and plugin.set(self, rest, text):
                return
        using = ", ".join(plugin.title for plugin in self.plugins) or "none"
        raise CommandError(
            f"Unknown service parameter '{key}'; plugins that work on {self.name}: {using}"
        )

    # -- HEADER -------------------------------------------------------------------

    def header(self, action: str, name: str, value: str) -> None:
        """Carry out ``HEADER service INSERT|REMOVE name: value``.

        Raises:
            CommandError: INSERT without a value.
        """
        if action == "remove":
            self.remove.append(name.lower().encode())
        elif not value:
            raise CommandError("no value provided")
        else:
            self.insert.append((name.encode(), value.encode("latin-1", "replace")))
        if self.role is not None:
            self.role.changed("header")

    # -- ENABLE, DISABLE ----------------------------------------------------------

    def enable(self) -> None:
        """Listen, if an address is set.

        Raises:
            CommandError: it is enabled, has no role, lacks something, or can't listen.
        """
        if self.enabled:
            raise CommandError(f"service {self.name} is already enabled")
        if self.role is None:
            raise CommandError(f"service {self.name} has no role; SET {self.name}.role = ...")
        self.role.check()
        self.listener = self._listen(self.role)
        self.enabled = True
        self.role.changed("enabled")

    def _listen(self, role: Role) -> Listening | None:
        """Listen at the address that is set, if one is.  Raises CommandError."""
        listen = self.parameters.listen
        if listen is None:
            return None
        console_at = self.balancer.console_at
        if self.parameters.role == "management" and console_at is not None:
            console_at(listen)
            return None
        return role.listen()

    def _listen_anew(self, key: str, before: Any) -> None:
        """Listen as is set now, and as before if that can't be done.

        Args:
            key: the parameter that was set.
            before: its value until then.

        Raises:
            CommandError: it can't be done.
        """
        assert self.role is not None
        old, wanted = self.listener, self.parameters.listen
        # 0.0.0.0:80 can't be had beside 10.0.0.1:80.
        overlap = key == "listen" and wanted is not None and before and wanted.port == before.port
        if old is not None and overlap:
            old.close()
            self.listener = None
        try:
            self.listener = self._listen(self.role)
        except CommandError:
            setattr(self.parameters, key, before)
            if overlap:
                self.listener = self._listen(self.role)
            raise
        if old is not None and not overlap:
            old.close()

    def disable(self) -> None:
        """Listen no more; who is connected stays.

        Raises:
            CommandError: it is disabled, or it is the console itself.
        """
        if not self.enabled:
            raise CommandError(f"service {self.name} is already disabled")
        if self.parameters.role == "management":
            raise CommandError("can't disable management service")
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self.listener is not None:
            self.listener.close()
            self.listener = None
        self.enabled = False

    def close(self) -> None:
        """Listen no more, and give back what the role holds."""
        if self.enabled:
            self._stop_listening()
        if self.role is not None:
            self.role.close()
        if self.access_log is not None:
            self.access_log.close()
            self.access_log = None

    # -- for the console ----------------------------------------------------------

    @property
    def where(self) -> str:
        """The address that it listens on, or the original's word for none."""
        listen = self.parameters.listen
        return "not_listening" if listen is None else str(listen)

    def dump(self) -> list[str]:
        """The commands that make this service what it is, without CREATE and ENABLE."""
        lines = []
        names = [*LINES_ORDER, *sorted(set(self.balancer.tunables) - set(LINES_ORDER))]
        for name in names:
            tunable = self.balancer.tunables[name]
            if name == "persist_client_timeout" or (
                tunable.role and tunable.role != self.parameters.role
            ):
                continue
            value = getattr(self.parameters, name)
            if value != tunable.default:
                lines.append(f"SET {name} = {tunable.kind.show(value)}")
        lines += [
            f"HEADER {self.name} INSERT {name.decode()}: {value.decode('latin-1')}"
            for name, value in self.insert
        ]
        lines += [f"HEADER {self.name} REMOVE {name.decode()}" for name in self.remove]
        for plugin in self.plugins:
            lines += plugin.dump(self)
        return lines
