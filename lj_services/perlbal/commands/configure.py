"""CREATE, USE, SET, DEFAULT, ENABLE, DISABLE, POOL, HEADER, LOAD, UNLOAD, RELOAD, SERVER, MIME.

Source: the manual page Perlbal::Manual::Configuration, and Perlbal 1.80's answers.
"""

from __future__ import annotations

import os
import re
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.http.mime import TYPES
from lj_services.perlbal.language import Command
from lj_services.perlbal.nodes import parse_address, parse_weight
from lj_services.perlbal.tunables import nearest

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer

_CREATE = re.compile(r"create (service|pool) (\w+)")
_USE = re.compile(r"use (\w+)")
_SET = re.compile(r"set (?:(\w+)[. ])?([\w.]+) ?= ?(.+)")
_DEFAULT = re.compile(r"default (\w+) ?= ?(.+)")
_ENABLE = re.compile(r"(enable|disable) (\w+)")
_POOL = re.compile(r"pool (\w+) (\w+) (\S+)(?: (weight=\S+|for=\S+))?")
_FOR = re.compile(r"for=(\d{1,6})", re.ASCII)
DRAIN_S: Final = 300
LONGEST_DRAIN_S: Final = 86400
_HEADER = re.compile(r"header (\w+) (insert|remove) ([^\s:]+)(?: ?: ?(.*))?", re.IGNORECASE)
_PLUGIN = re.compile(r"(?:load|unload|reload) (\w+)")
_OF_ONE_NODE = re.compile(r"max_reproxy_connections\(\S+\)")
_SERVER = re.compile(r"server (\S+?) ?= ?(.+)")
_MIME = re.compile(r"mime(?: (\w+)(?: (\w+)(?: (\S+))?)?)?")
_NUMBER = re.compile(r"-?\d+", re.ASCII)


def create(balancer: Balancer, command: Command) -> None:
    """``CREATE {SERVICE|POOL} name``."""
    what, name = command.match(_CREATE, "usage: CREATE {service|pool} <name>").groups()
    if what == "service":
        balancer.create_service(name)
    else:
        balancer.create_pool(name)
    command.context.last_created = name
    command.ok()


def use(balancer: Balancer, command: Command) -> None:
    """``USE name``: what SET without a name means from now on."""
    name = command.match(_USE, "usage: USE <service_or_pool_name>")[1]
    if name not in balancer.services and name not in balancer.pools:
        raise CommandError(f"Non-existent pool or service '{name}'")
    command.context.last_created = name
    command.ok()


def set_(balancer: Balancer, command: Command) -> None:
    """``SET [name.]parameter = value``."""
    name, key, value = command.match(_SET, "usage: SET [<service>] <param> = <value>").groups()
    if name is not None and name not in balancer.services and name not in balancer.pools:
        # SET plugin.parameter = value, of the service that was created last
        last = balancer.services.get(command.context.last_created)
        if last is not None and any(plugin.name == name for plugin in last.plugins):
            name, key = None, f"{name}.{key}"
        elif name == "extra":
            name, key = None, f"extra.{key}"
    name = name or command.context.last_created
    if not name:
        raise CommandError("omitted service/pool name not implied from context")
    if name in balancer.services:
        balancer.services[name].set(key, value)
    elif name in balancer.pools:
        balancer.pools[name].set(key, value)
    else:
        raise CommandError(f"service/pool '{name}' does not exist")
    command.ok()


def default(balancer: Balancer, command: Command) -> None:
    """``DEFAULT parameter = value``: for services whose role is set from now on."""
    key, value = command.match(_DEFAULT, "usage: DEFAULT <param> = <value>").groups()
    tunable = balancer.tunables.get(key)
    if key in ("role", "listen"):
        raise CommandError(f"'{key}' is each service's own; SET {key} = ... there")
    if tunable is None:
        raise CommandError(nearest(key, balancer.tunables, "service parameter"))
    tunable.parse(value, tunable.role)
    balancer.defaults[key] = value
    command.ok()


def enable(balancer: Balancer, command: Command) -> None:
    """``{ENABLE|DISABLE} service``."""
    verb, name = command.match(_ENABLE, "Usage: {ENABLE|DISABLE} <service>").groups()
    service = balancer.services.get(name)
    if service is None:
        raise CommandError(f"service '{name}' does not exist")
    if verb == "enable":
        service.enable()
    else:
        service.disable()
    command.ok()


def pool(balancer: Balancer, command: Command) -> None:
    """``POOL name {ADD|REMOVE|DRAIN} ip[:port] [weight=N|for=SECONDS]``, the first two in either
    order.

    DRAIN leaves a node out for so many seconds (`DRAIN_S`), then it is in again; for=0: now.
    """
    verb, name, node, option = command.match(_POOL).groups()
    if name in ("add", "remove", "drain"):
        verb, name = name, verb
    if verb not in ("add", "remove", "drain"):
        raise CommandError("Invalid command:  must be 'add', 'remove' or 'drain'")
    found = balancer.pools.get(name)
    if found is None:
        raise CommandError(f"Pool '{name}' not found")
    option = option or ""
    try:
        address = parse_address(node)
        if verb == "drain":
            found.drain(address, balancer.now + _drain_seconds(option))
            found.let_in(balancer.now)
        elif option.startswith("for="):
            raise CommandError(f"'{option}' goes with DRAIN")
        elif verb == "add":
            found.add(address, parse_weight(option) if option else 1)
        else:
            found.remove(address)
    except ValueError as error:
        raise CommandError(str(error)) from None
    command.ok()


def _drain_seconds(option: str) -> int:
    """Read ``for=120``; `DRAIN_S` if there is nothing; 0 ends a drain.  Raises CommandError."""
    if not option:
        return DRAIN_S
    match = _FOR.fullmatch(option)
    if match is None or int(match[1]) > LONGEST_DRAIN_S:
        raise CommandError(f"'{option}' is no time: write for=0 to for={LONGEST_DRAIN_S} (seconds)")
    return int(match[1])


def header(balancer: Balancer, command: Command) -> None:
    """``HEADER service {INSERT|REMOVE} name[: value]``, for requests on their way to nodes."""
    usage = "Usage: HEADER <service> {INSERT|REMOVE} <header>[: <value>]"
    name, action, field, value = command.match_original(_HEADER, usage).groups()
    service = balancer.services.get(name.lower())
    if service is None:
        raise CommandError(f"service '{name}' does not exist")
    if not re.fullmatch(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", field):
        raise CommandError(f"'{field}' is no name of a header")
    service.header(action.lower(), field, value or "")
    command.ok()


def load(balancer: Balancer, command: Command) -> None:
    """``LOAD plugin``."""
    balancer.load_plugin(command.match(_PLUGIN)[1])
    command.ok()


def unload(balancer: Balancer, command: Command) -> None:
    """``UNLOAD plugin``."""
    balancer.unload_plugin(command.match(_PLUGIN)[1])
    command.ok()


def reload(_balancer: Balancer, command: Command) -> None:
    """``RELOAD plugin``: refused."""
    name = command.match(_PLUGIN)[1]
    raise CommandError(
        f"Plugin {name} can't be loaded again while the balancer runs; start a new balancer"
    )


def server(balancer: Balancer, command: Command) -> None:
    """``SERVER key = value``: what concerns the whole process."""
    key, value = command.match(_SERVER).groups()
    if _OF_ONE_NODE.fullmatch(key):
        key = "max_reproxy_connections"
    setter = _SERVER_KEYS.get(key)
    if setter is None:
        raise CommandError(nearest(key, _SERVER_KEYS, "server option"))
    setter(balancer, value)
    command.ok()


def _max_connections(_balancer: Balancer, value: str) -> None:
    wanted = _number(value)
    try:
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        unlimited = hard == resource.RLIM_INFINITY
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted, hard if unlimited else max(wanted, hard))
        )
    except (OSError, ValueError):
        why = "Unable to set limit." if os.geteuid() == 0 else "Need to be root to increase"
        raise CommandError(f"{why} max connections.") from None


def _nice_level(_balancer: Balancer, value: str) -> None:
    try:
        os.nice(_number(value))
    except OSError as error:
        raise CommandError(f"Unable to renice: {error.strerror}") from None


def _aio_mode(_balancer: Balancer, value: str) -> None:
    if value not in ("none", "ioaio"):
        raise CommandError("Unknown AIO mode; there are none, ioaio")


def _aio_threads(_balancer: Balancer, value: str) -> None:
    _number(value)


def _pidfile(balancer: Balancer, value: str) -> None:
    if balancer.running:
        raise CommandError("pidfile must be configured at startup")
    if not value.startswith("/"):
        raise CommandError("Expected full pathname to pidfile")
    balancer.pidfile = Path(value)


def _crash_backtrace(_balancer: Balancer, value: str) -> None:
    if value not in ("0", "1"):
        raise CommandError("Expected 1 or 0")


def _track_obj(_balancer: Balancer, value: str) -> None:
    if value != "0":
        raise CommandError("objects are not tracked; memory is in /metrics")


def _max_reproxy(_balancer: Balancer, value: str) -> None:
    if _number(value) != 0:
        raise CommandError("connections to reproxied URLs are not limited")


def _number(value: str) -> int:
    if _NUMBER.fullmatch(value) is None:
        raise CommandError("Expected numeric parameter")
    return int(value)


_SERVER_KEYS: Final = {
    "max_connections": _max_connections,
    "max_reproxy_connections": _max_reproxy,
    "nice_level": _nice_level,
    # Files are read in threads where they are not in memory; both words are understood.
    "aio_mode": _aio_mode,
    "aio_threads": _aio_threads,
    "track_obj": _track_obj,
    "pidfile": _pidfile,
    # What crashes is always logged with where it did.
    "crash_backtrace": _crash_backtrace,
}


def mime(_balancer: Balancer, command: Command) -> None:
    """``MIME [list | set ext type | remove ext]``."""
    action, extension, kind = command.match(_MIME).groups()
    if action in (None, "list"):
        for name in sorted(TYPES):
            command.out(f"{name} {TYPES[name]}")
        command.end()
    elif action == "set" and extension and kind:
        TYPES[extension] = kind
        command.out(f"{extension} set to {kind}.")
    elif action == "set":
        raise CommandError("Usage: set <ext> <mime>")
    elif action == "remove" and extension:
        if TYPES.pop(extension, None) is None:
            raise CommandError(f"{extension} not a defined extension.")
        command.out(f"{extension} removed.")
    else:
        raise CommandError("Usage: list, remove <ext>, set <ext> <mime>")


COMMANDS: Final = {
    "create": create,
    "use": use,
    "set": set_,
    "default": default,
    "enable": enable,
    "disable": enable,
    "pool": pool,
    "header": header,
    "load": load,
    "unload": unload,
    "reload": reload,
    "server": server,
    "mime": mime,
}
