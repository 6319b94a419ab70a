"""What anybody may say: who is there, what happens, the end."""

from __future__ import annotations

import time
from typing import Final

from lj_services.usercluster.coordinator.console import Console, Session
from lj_services.usercluster.coordinator.protocol import Reply, Request, named


async def clients(console: Console, _session: Session, _request: Request) -> Reply:
    """who is connected"""
    now = time.monotonic()
    lines = []
    for one in sorted(console.sessions, key=lambda session: session.peer):
        worker = one.worker
        facts: dict[str, object] = {"peer": one.peer, "seconds": round(now - one.since)}
        if worker is not None:
            running = console.coordinator.schedule.running.values()
            facts.update(
                worker=worker.name,
                slots=worker.slots,
                moves=sum(name == worker.name for name in running),
                answered=worker.answered,
            )
        lines.append(named(**facts))
    return Reply(lines=tuple(lines))


async def subscribe(_console: Console, session: Session, _request: Request) -> Reply:
    """be told what happens, as EVENT lines"""
    session.subscribed = True
    return Reply("subscribed")


async def unsubscribe(_console: Console, session: Session, _request: Request) -> Reply:
    """be told no more"""
    session.subscribed = False
    return Reply("unsubscribed")


async def refresh(console: Console, _session: Session, _request: Request) -> Reply:
    """look at the tables now: something was changed there"""
    await console.coordinator.refresh()
    return Reply()


async def help(console: Console, _session: Session, _request: Request) -> Reply:
    """this list"""
    return Reply(
        lines=tuple(
            f"{name} {(command.__doc__ or '').strip()}"
            for name, command in sorted(console.commands.items())
        )
    )


async def quit(_console: Console, session: Session, _request: Request) -> Reply:
    """end this connection"""
    session.end()
    return Reply("bye")


async def shutdown(console: Console, _session: Session, _request: Request) -> Reply:
    """end the coordinator; moves under way go on, and nothing is lost"""
    console.stop()
    return Reply("the coordinator ends")


COMMANDS: Final = (clients, subscribe, unsubscribe, refresh, help, quit, shutdown)
