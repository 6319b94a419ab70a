"""PROC, UPTIME, VERSION, FD, SOCKS, OBJ, AIO, CERTIFICATES, HELP, VERBOSE, SHUTDOWN; and what is
refused.

Source: Perlbal::Manual::Management, and Perlbal 1.80's answers.
"""

from __future__ import annotations

import os
import re
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import lj_services
from lj_services.perlbal import tls
from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.language import Command

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer

_VERBOSE = re.compile(r"verbose (on|off)")
_SHUTDOWN = re.compile(r"shutdown(?: (graceful))?(?: (\d+))?")
_CERTIFICATES = re.compile(r"certificates(?: (reload))?")
_SOCKS = re.compile(r"socks(?: (\w+))?")


def verbose(_balancer: Balancer, command: Command) -> None:
    """``VERBOSE {ON|OFF}``: whether commands without an answer say OK."""
    onoff = command.match(_VERBOSE, "usage: VERBOSE {on|off}")[1]
    command.context.verbose = onoff == "on"
    command.ok()


def shutdown(balancer: Balancer, command: Command) -> None:
    """``SHUTDOWN [GRACEFUL [seconds]]``."""
    graceful, seconds = how_to_shut_down(command)
    if balancer.shut_down is None:
        raise CommandError("this balancer is a part of a program; end that one")
    balancer.shut_down(graceful, seconds)
    command.ok()


def how_to_shut_down(command: Command) -> tuple[bool, float | None]:
    """Whether SHUTDOWN is to be graceful, and for how long, in seconds.

    Raises:
        CommandError: the line is malformed.
    """
    graceful, seconds = command.match(_SHUTDOWN).groups()
    return graceful is not None, float(seconds) if seconds else None


def of_workers(_balancer: Balancer, command: Command) -> None:
    """``RESTART``, ``WORKERS``: of several processes; one alone has nobody to hand over to."""
    command.no_arguments()
    raise CommandError(
        f"'{command.name}' is for a balancer that was started with --workers 1 or more; this is "
        "a single process"
    )


def proc(balancer: Balancer, command: Command) -> None:
    """``PROC``: the process's id and CPU time, and requests; what came since the last PROC."""
    command.no_arguments()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    user, system, requests = balancer.last_proc
    balancer.last_proc = (usage.ru_utime, usage.ru_stime, balancer.requests)
    command.out(f"time: {int(time.time())}")
    command.out(f"pid: {os.getpid()}")
    command.out(f"utime: {usage.ru_utime:.6g} (+{usage.ru_utime - user:.6g})")
    command.out(f"stime: {usage.ru_stime:.6g} (+{usage.ru_stime - system:.6g})")
    command.out(f"reqs: {balancer.requests} (+{balancer.requests - requests})")
    command.end()


def uptime(balancer: Balancer, command: Command) -> None:
    """``UPTIME`` or ``VERSION``: since when, and which."""
    command.no_arguments()
    command.out(f"starttime {balancer.started}")
    command.out(f"uptime {int(time.time()) - balancer.started}")
    command.out(f"version lj-{lj_services.__version__}")
    command.end()


def fd(_balancer: Balancer, command: Command) -> None:
    """``FD``: how many files and sockets are open, and may be."""
    command.no_arguments()
    command.out(f"max {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}")
    command.out(f"cur {sum(1 for _ in Path('/proc/self/fd').iterdir()) - 1}")
    command.end()


def socks(balancer: Balancer, command: Command) -> None:
    """``SOCKS [all|summary]``: every socket, or how many of each kind."""
    mode = command.match(_SOCKS)[1] or "all"
    if mode not in ("all", "summary"):
        raise CommandError("usage: SOCKS [all|summary]")
    listeners = [s.listener for s in balancer.services.values() if s.listener is not None]
    if mode == "summary":
        counted = Counter(connection.kind for connection in balancer.connections)
        counted["Perlbal::TCPListener"] += len(listeners)
        for kind, count in sorted(counted.items()):
            command.out(f"{count:5d} {kind}")
        waiting = sum(connection.unsent for connection in balancer.connections)
        files = sum(connection.has_file for connection in balancer.connections)
        command.out()
        command.out(f"Aggregate write buffer: {waiting / 1024:.1f}k")
        command.out(f"            Open files: {files}")
    else:
        command.out(f"{'fd':>5} {'age':>6}")
        rows = [(each.fd, 0.0, f"Perlbal::TCPListener: {each}") for each in listeners]
        rows += [
            (each.fd, balancer.now - each.created, f"{each.kind}{each.describe()}")
            for each in balancer.connections
        ]
        for number, age, text in sorted(rows):
            command.out(f"{number:5d} {age:5.0f}s {text}")
    command.end()


def obj(balancer: Balancer, command: Command) -> None:
    """``OBJ``: how many objects of which kind there are."""
    command.no_arguments()
    counted = Counter(connection.kind for connection in balancer.connections)
    for kind, count in sorted(counted.items()):
        command.out(f"{kind} = {count}")
    command.out(f"Perlbal::Pool = {len(balancer.pools)}")
    command.out(f"Perlbal::Service = {len(balancer.services)}")
    command.end()


def aio(_balancer: Balancer, command: Command) -> None:
    """``AIO``: nothing to show, as files are read in threads as they are needed."""
    command.no_arguments()
    command.end()


def certificates(balancer: Balancer, command: Command) -> None:
    """``CERTIFICATES [RELOAD]``: those in use; or read them again first, as SIGHUP does."""
    if command.match(_CERTIFICATES, "usage: CERTIFICATES [RELOAD]")[1]:
        tls.reload(balancer.services.values())
    for service in balancer.services.values():
        if service.listener is not None and service.listener.tls is not None:
            for certificate in service.listener.tls.known:
                command.out(f"{service.name} {certificate}")
    command.end()


def help_(balancer: Balancer, command: Command) -> None:
    """``HELP``: the commands there are."""
    command.no_arguments()
    for name in balancer.commands():
        command.out(name)
    command.end()


def _refused(reason: str) -> Callable[[Balancer, Command], None]:
    def refuse(_balancer: Balancer, command: Command) -> None:
        raise CommandError(f"'{command.name}' is not carried out: {reason}")

    refuse.__doc__ = f"Refused: {reason}."
    return refuse


COMMANDS: Final = {
    "verbose": verbose,
    "shutdown": shutdown,
    "restart": of_workers,
    "workers": of_workers,
    "proc": proc,
    "uptime": uptime,
    "version": uptime,
    "fd": fd,
    "socks": socks,
    "obj": obj,
    "aio": aio,
    "certificates": certificates,
    "help": help_,
    "gladiator": _refused("it shows Perl's memory"),
    "leaks": _refused("it shows Perl's memory; memory is in /metrics"),
    "varsize": _refused("it shows Perl's variables"),
    "track": _refused("objects are not tracked; OBJ counts them"),
    "prof": _refused("use py-spy or perf on the process that PROC names"),
    "xs": _refused("there are no Perl modules to choose"),
}
