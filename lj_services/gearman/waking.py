"""Which sleeping workers are woken: as many as there are jobs for."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from lj_services.gearman.jobs import Function, Peer
from lj_services.gearman.protocol import PacketType, answer

PATIENCE_S: Final = 1.0
"""How long a woken worker may take to ask for a job before another one is woken."""

NOOP: Final = answer(PacketType.NOOP)


class Wakes:
    """The workers that have been woken and have not asked for a job yet."""

    def __init__(self) -> None:
        self._woken: OrderedDict[Peer, float] = OrderedDict()

    def wake(self, function: Function, now: float) -> None:
        """Wake sleepers until as many are expected as there are jobs ready.

        Args:
            function: whose jobs.
            now: of the queues' clock, in seconds.
        """
        missing = function.ready - function.woken
        while missing > 0 and function.sleepers:
            peer, _ = function.sleepers.popitem(last=False)
            if len(peer.abilities) > 1:
                for other, _ in peer.abilities.values():
                    other.sleepers.pop(peer, None)
            peer.woken_for = function
            function.woken += 1
            self._woken[peer] = now
            peer.write(NOOP)
            missing -= 1

    def heard(self, peer: Peer, now: float) -> Function | None:
        """A worker is heard of: it does not sleep, and is not waited for any more.

        Returns:
            the function that it was woken for, if it was.
        """
        if peer.sleeping:
            peer.sleeping = False
            for function, _ in peer.abilities.values():
                function.sleepers.pop(peer, None)
        was_for, peer.woken_for = peer.woken_for, None
        if was_for is not None:
            was_for.woken -= 1
            del self._woken[peer]
            if peer.gone and was_for.sleepers:
                self.wake(was_for, now)
        return was_for

    def pass_over(self, now: float) -> None:
        """Count those out that don't come, and wake others."""
        while self._woken:
            peer, since = next(iter(self._woken.items()))
            if since + PATIENCE_S > now:
                break
            function = peer.woken_for
            del self._woken[peer]
            peer.woken_for = None
            if function is not None:
                function.woken -= 1
                self.wake(function, now)
