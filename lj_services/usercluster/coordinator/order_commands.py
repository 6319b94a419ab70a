"""What operators order: pauses and limits."""

from __future__ import annotations

from typing import Final

from lj_services.usercluster.coordinator import listing, orders
from lj_services.usercluster.coordinator.console import Console, Session, number_from_zero
from lj_services.usercluster.coordinator.jobs import SIDES, Side, scope
from lj_services.usercluster.coordinator.limits import Limits, changed
from lj_services.usercluster.coordinator.protocol import BadRequest, Reply, Request, named


async def pause(console: Console, _session: Session, request: Request) -> Reply:
    """[all|src:N|dst:N|MOVE] [why=...]: begin nothing there, hand back what runs"""
    what = _scope(request)
    why = request.fields.get("why", "by an operator")
    await console.coordinator.thread(orders.pause, console.coordinator.desk.databases, what, why)
    await console.coordinator.refresh()
    return Reply(f"{what} is paused")


async def resume(console: Console, _session: Session, request: Request) -> Reply:
    """[all|src:N|dst:N|MOVE]: go on there"""
    what = _scope(request)
    was = await console.coordinator.thread(orders.resume, console.coordinator.desk.databases, what)
    await console.coordinator.refresh()
    return Reply(f"{what} goes on" if was else f"{what} was not paused")


async def pauses(console: Console, _session: Session, _request: Request) -> Reply:
    """what is paused, and why"""
    found = sorted(console.coordinator.orders.pauses.items())
    return Reply(lines=tuple(named(scope=what, why=why) for what, why in found))


async def set_rate(console: Console, _session: Session, request: Request) -> Reply:
    """src:N|dst:N moves=N purges=N rows_s=R lag_s=S busy=B, or N:MOVES for a source"""
    what = request.word(0, "src:N or dst:N")
    values = {
        name: number_from_zero(text, f"set_rate: {name}") for name, text in request.fields.items()
    }
    if what.replace(":", "").isdecimal():  # as moveuclusterd has it
        source, _, moves = what.partition(":")
        what, values = f"src:{source}", {"moves": number_from_zero(moves, "set_rate: N:MOVES")}
    side, cluster = _side(console, what)
    if not values:
        raise BadRequest(f"set_rate: give one of {', '.join(Limits.model_fields)}")
    try:
        changed(console.coordinator.limits(side, cluster), values)
    except ValueError as error:
        raise BadRequest(f"set_rate: {error}") from None
    await console.coordinator.thread(
        orders.set_limits, console.coordinator.desk.databases, what, values
    )
    await console.coordinator.refresh()
    return Reply(f"{what} " + _limits(console.coordinator.limits(side, cluster)))


async def reset_rate(console: Console, _session: Session, request: Request) -> Reply:
    """src:N|dst:N: the settings hold again"""
    what = request.word(0, "src:N or dst:N")
    side, cluster = _side(console, what)
    await console.coordinator.thread(orders.reset_limits, console.coordinator.desk.databases, what)
    await console.coordinator.refresh()
    return Reply(f"{what} " + _limits(console.coordinator.limits(side, cluster)))


async def show_rates(console: Console, _session: Session, _request: Request) -> Reply:
    """limits of each side of each cluster, and how loaded it is"""
    return Reply(
        lines=tuple(
            f"{side}:{cluster} "
            + named(running=console.coordinator.schedule.running_on(side, cluster))
            + f" {_limits(console.coordinator.limits(side, cluster))} "
            + listing.condition(console.coordinator, cluster)
            for cluster in console.coordinator.desk.databases.clusters()
            for side in SIDES
        )
    )


def _side(console: Console, text: str) -> tuple[Side, int]:
    side, _, number = text.partition(":")
    if side not in SIDES or not number.isdecimal():
        raise BadRequest(f"{text[:40]!r} is no src:N or dst:N")
    cluster = int(number)
    if cluster not in console.coordinator.desk.databases.clusters():
        raise BadRequest(f"there is no cluster {cluster}", "unknown")
    return ("src" if side == "src" else "dst"), cluster


def _limits(limits: Limits) -> str:
    return named(**{name: f"{value:g}" for name, value in limits.model_dump().items()})


def _scope(request: Request) -> str:
    try:
        return scope(request.words[0] if request.words else "all")
    except ValueError as error:
        raise BadRequest(f"{request.command}: {error}") from None


COMMANDS: Final = (pause, resume, pauses, set_rate, reset_rate, show_rates)
