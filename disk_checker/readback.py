"""Reading acknowledged blocks back while the run goes on.

No cut is needed to find a write that was dropped, misplaced or damaged on its way.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from disk_checker.classify import Finding, judge_block
from disk_checker.stamp import Stamper

_RECENT = 4096
_MAX_TOLD = 100


class Promise(NamedTuple):
    """A write that was acknowledged: its block holds it, or a later one."""

    block: int
    seq: int
    acked_us: int


class ReadBack:
    """Chooses what one lane reads back, and judges what was read.

    :param every: after so many writes; 0: never.
    """

    def __init__(self, stamper: Stamper, every: int) -> None:
        self._stamper = stamper
        self._every = self._left = every
        self._recent: deque[tuple[int, Sequence[int], int]] = deque()
        self._held = 0
        self._rng = random.Random(stamper.run)  # noqa: S311 - repeatable choices
        self._told = 0

    def add(self, seq: int, blocks: Sequence[int], acked_us: int) -> None:
        """These writes are acknowledged; the first is ``seq``."""
        if self._every:
            self._recent.append((seq, blocks, acked_us))
            self._held += len(blocks)
            while self._held > _RECENT and len(self._recent) > 1:
                self._held -= len(self._recent.popleft()[1])
            self._left -= len(blocks)

    def due(self) -> Promise | None:
        """One of the last writes, if it is time to read one back."""
        if not self._recent or self._left > 0:
            return None
        self._left = self._every
        first, blocks, acked_us = self._rng.choice(self._recent)
        index = self._rng.randrange(len(blocks))
        return Promise(blocks[index], first + index, acked_us)

    def judge(self, promise: Promise, data: bytes | OSError) -> dict[str, Any] | None:
        """The note of a fault; None: there is none, or a hundred were told already.

        :param data: the block as it was read, or why it could not be.
        """
        finding: Finding | None
        if isinstance(data, OSError):
            finding = Finding.unreadable(*promise, str(data))
        else:
            finding = judge_block(
                self._stamper,
                promise.block,
                data,
                promise.seq,
                promise.acked_us,
                newest=None,
            )
        if finding is None or not finding.fault or self._told >= _MAX_TOLD:
            return None
        self._told += 1
        return {"note": "read-back", **finding.as_json()}
