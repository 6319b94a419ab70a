"""``lj mover``: the workers who move users, and the coordinator that tells them whom."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click
from prometheus_client import REGISTRY

from lj_services.cli.errors import told
from lj_services.cli.moving import make_worker
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.daemon import ConfigError, ExitCode, HostPort, run_service
from lj_services.daemon.command import serve_command
from lj_services.daemon.lifecycle import notify_systemd
from lj_services.daemon.log import configure_logging
from lj_services.daemon.metrics import MetricsServer
from lj_services.database import DatabaseError, check_schema
from lj_services.usercluster import coordinator as package
from lj_services.usercluster import mover
from lj_services.usercluster.coordinator import AnotherRules, Away, OrderRefused
from lj_services.usercluster.coordinator.client import Client, find
from lj_services.usercluster.coordinator.config import CoordinatorSettings
from lj_services.usercluster.coordinator.desk import Desk
from lj_services.usercluster.coordinator.host import Host, Meter
from lj_services.usercluster.coordinator.lock import Lock, expected
from lj_services.usercluster.coordinator.protocol import shown
from lj_services.usercluster.coordinator.server import CoordinatorService
from lj_services.usercluster.coordinator.worker import CoordinatedWorker
from lj_services.usercluster.mover.metrics import FeedMetrics

log = logging.getLogger(__name__)

STANDBY_S = 1.0


@click.group()
def command() -> None:
    """The workers who move users between clusters, and who tells them whom to move."""


class _Address(click.ParamType[HostPort]):
    name = "HOST:PORT"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> HostPort:
        try:
            return value if isinstance(value, HostPort) else HostPort.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


coordinator_option = click.option(
    "--coordinator",
    "address",
    type=_Address(),
    help="Where the coordinator is.  Default: what the global database says.",
)


def locator(site: Site, address: HostPort | None) -> Callable[[], HostPort | None]:
    """How to learn where the coordinator is, each time that one connects."""
    return lambda: address or find(site.databases)


def connect(site: Site, address: HostPort | None) -> Client:
    """A connection to the coordinator.

    Raises:
        Away: there is none.
        DatabaseError: ``global`` can't be asked where it is.
    """
    where = address or find(site.databases)
    if where is None:
        raise Away("there is no coordinator; start one with lj mover coordinator")
    return Client(where)


@serve_command(CoordinatorSettings)
@click.option("--standby", is_flag=True, help="Wait for as long as another coordinator runs.")
@pass_site
def coordinator(site: Site, load: Callable[[], CoordinatorSettings], standby: bool) -> ExitCode:
    """Tell the workers which user to move next, and how fast.

    There is never more than one: whoever comes second ends with exit code 5, or waits
    (--standby).  It may be ended at any moment: moves under way go on, and nothing is lost.
    Its text console is on the address of listen: try help there.
    """
    try:
        settings = load()
    except ConfigError as error:
        raise CommandError(str(error), ExitCode.CONFIG) from None
    with told():
        check_schema(site.databases, [mover.COMPONENT, package.COMPONENT])
        lock = Lock(site.databases, str(settings.advertise or settings.listen))
        _take(lock, standby)
        try:
            return run_service(
                "coordinator",
                lambda now: CoordinatorService(
                    now, Desk(site.databases, site.settings.mover, lock)
                ),
                load,
            )
        finally:
            lock.release()


coordinator.name = "coordinator"
command.add_command(coordinator)


def _take(lock: Lock, standby: bool) -> None:
    while True:
        try:
            lock.take()
            return
        except (AnotherRules, DatabaseError):
            if not standby:
                raise
            time.sleep(STANDBY_S)


@command.command()
@coordinator_option
@click.option("--alone", is_flag=True, help="Take moves from the table, without a coordinator.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=2, show_default=True, help="Moves at once."
)
@click.option("--until-idle", is_flag=True, help="End when no move is due.  Only --alone.")
@click.option(
    "--drain-timeout",
    type=click.FloatRange(0, 86_400),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM: moves that take longer are handed back, for others to go on.",
)
@click.option(
    "--metrics-listen",
    type=_Address(),
    help="Serve Prometheus figures and the health answer here.  Default: nowhere.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@pass_site
@told()
def worker(
    site: Site,
    address: HostPort | None,
    alone: bool,
    jobs: int,
    until_idle: bool,
    drain_timeout: float,
    metrics_listen: HostPort | None,
    log_format: str,
) -> None:
    """Carry out moves; purge old homes when their time is over.

    Any number of workers may run, on any hosts that reach the databases.  They ask the
    coordinator, and wait for it; where there never was one (and with --alone) they take moves
    from the table themselves, and nothing limits or pauses them.  SIGTERM: finish what is
    under way, then end.  A worker that dies is replaced by the next one that looks.
    """
    configure_logging("json" if log_format == "json" else "text", "info")
    one = make_worker(site)
    stop = threading.Event()
    if until_idle and address is not None:
        raise click.UsageError("--until-idle goes with --alone")
    alone = alone or until_idle or (address is None and not expected(site.databases))
    if alone:
        log.info("no coordinator: taking moves from the table")
        end = stop.set
    else:
        coordinated = CoordinatedWorker(one, locator(site, address), jobs, drain_timeout)
        end = coordinated.stop
    ending = _on_end(end)
    with _figures(metrics_listen, one, ending):
        notify_systemd("READY=1")
        if alone:
            one.loop(stop, jobs=jobs, until_idle=until_idle)
        else:
            coordinated.run()


@contextmanager
def _figures(
    address: HostPort | None, worker: mover.Worker, ending: threading.Event
) -> Iterator[None]:
    """Serve a worker's figures and health, if anybody wants them."""
    if address is None:
        yield
        return
    feeds = FeedMetrics(worker.feeds.opened)
    try:
        server = MetricsServer(
            address, lambda: "draining" if ending.is_set() else worker.presence.trouble
        )
    except OSError as error:
        raise CommandError(f"{address}: {error}", ExitCode.UNREACHABLE) from error
    REGISTRY.register(feeds)
    try:
        yield
    finally:
        REGISTRY.unregister(feeds)
        server.close()


class _Place(click.ParamType[tuple[int, Path | None]]):
    name = "CLUSTER[=FOLDER]"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, Path | None]:
        number, equals, folder = str(value).partition("=")
        if not number.isdecimal() or int(number) < 1 or (equals and not folder):
            self.fail(f"{value!r} is no CLUSTER or CLUSTER=FOLDER, as 3=/srv/mysql", param, ctx)
        return int(number), Path(folder) if folder else None


@command.command()
@click.argument("clusters", type=_Place(), nargs=-1, required=True, metavar="CLUSTER[=FOLDER]...")
@coordinator_option
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/var/lib/mysql"),
    show_default=True,
    help="The folder with the data of clusters that name none.",
)
@click.option(
    "--disk", help="The disk under it, as psutil names it.  Default: found by the folder."
)
@click.option("--name", default=socket.gethostname, help="This host's name.  Default: its own.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text")
@pass_site
@told()
def host(
    site: Site,
    clusters: tuple[tuple[int, Path | None], ...],
    address: HostPort | None,
    data: Path,
    disk: str | None,
    name: str,
    log_format: str,
) -> None:
    """Tell the coordinator every second how busy and how full the disk of each CLUSTER here is.

    A cluster whose folder is not there (the idle side of a pair) is passed over until it
    appears.  Where the system does not count how busy the disk is, only its space is told.
    """
    configure_logging("json" if log_format == "json" else "text", "info")
    meters = {number: Meter(folder or data, disk) for number, folder in clusters}
    one = Host(meters, locator(site, address), name)
    stop = threading.Event()
    _on_end(stop.set)
    notify_systemd("READY=1")
    one.run(stop)


@command.command(context_settings={"ignore_unknown_options": True})
@coordinator_option
@click.argument("words", nargs=-1, required=True)
@json_option
@pass_site
@told()
def ask(site: Site, address: HostPort | None, words: tuple[str, ...], as_json: bool) -> None:
    """Say WORDS to the coordinator's console, and print the answer: `lj mover ask help`."""
    client = connect(site, address)
    try:
        reply = client.send((" ".join([words[0], *map(_quoted, words[1:])]) + "\n").encode())
    except OrderRefused as error:
        code = {"usage": ExitCode.USAGE, "unknown_command": ExitCode.USAGE}.get(error.code)
        code = ExitCode.UNKNOWN if error.code == "unknown" else code
        raise CommandError(str(error), code or ExitCode.REFUSED) from error
    finally:
        client.close()
    out = Output(as_json)
    if as_json:
        out.document({"text": reply.text, "lines": list(reply.lines)})
    for line in reply.lines or (reply.text,):
        out.say(line)


def _quoted(word: str) -> str:
    """A word of the shell's as a word of the protocol's: ``why=a b`` becomes ``why="a b"``."""
    name, equals, value = word.partition("=")
    if " " not in word or not equals:
        return word
    return f"{name}={shown(value)}"


def _on_end(end: Callable[[], object]) -> threading.Event:
    """Call something at SIGTERM and SIGINT; returns what is set by then."""
    ending = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        notify_systemd("STOPPING=1")
        ending.set()
        end()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    return ending
