"""What a run's journal adds up to: its totals, and the last acknowledged write of each block.

The states of the blocks are *folded* from the journal (see :mod:`disk_checker.ledger`) when
somebody asks: into a nameless file, 16 bytes a block, sparse, mapped into memory, so that the
kernel and not this process decides how much of it stays in memory.  What the fold keeps of its
own is bounded by the writes in flight: an intent is remembered until its acknowledgement comes.

A write counts as acknowledged only if its DONE frame is in the journal.  An intent without one
(in flight when the power went, or failed) makes its content *allowed* on disk, never required.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from disk_checker import protocol
from disk_checker.errors import LedgerError, ProtocolError
from disk_checker.plan import Plan
from disk_checker.protocol import Frame, FrameReader, Kind

MAX_NOTES = 1000

STATE_SIZE = 16
CHUNK = 1 << 20
"""Bytes of a journal that are read at once."""

_PIECE_SHIFT = 14
"""Room for states is taken in pieces of so many blocks: 256 KiB."""


def no_room(folder: Path, error: OSError) -> LedgerError:
    """The record cannot be written, in words for whoever asked for it."""
    return LedgerError(
        f"The listener cannot write its record in {folder} ({error.strerror}): make room there "
        "(journals whose reports you have may go) or give it another --state, then begin a new "
        "run."
    )


@dataclass
class Totals:
    """What a run's journal adds up to."""

    intended: int = 0
    """highest seq that was granted"""
    acked: int = 0
    """writes acknowledged"""
    last_ack_us: int = 0
    """the victim's clock at its last acknowledgement, µs from the run's start"""
    end_block: int = 0
    """1 + the highest block with an acknowledged write"""
    last_ack_heard_us: int = 0
    """the listener's clock when the last acknowledgement came, µs since 1970"""
    last_heard_us: int = 0
    """the listener's clock when the victim was last heard"""
    started_us: int = 0
    in_flight: int = 0
    """intents without acknowledgement"""
    stopped: bool = False
    """the victim said goodbye: no power cut interrupted it"""
    cut_us: int = 0
    """the listener's clock when somebody noted that the power is being cut; 0: nobody did"""
    ended: str = ""
    """how the run ended for the listener: closed, silent, refused, listener (its own end)"""
    damaged: bool = False
    """a part of the journal that had been answered was unreadable"""
    notes: list[dict[str, Any]] = field(default_factory=list)
    """errors, findings of read-backs, and so on; the first thousand"""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class _States:
    """16 bytes a block, in a nameless file that is mapped into memory.

    Room on the disk is taken before it is written to: the kernel kills who writes to a mapped
    file on a full one.  ``words`` are seq and time of each block; ``room`` the pieces that have
    room.
    """

    def __init__(self, folder: Path, blocks: int) -> None:
        self._folder = folder
        self.room = set[int]()
        size = blocks * STATE_SIZE
        try:
            with tempfile.TemporaryFile(dir=folder, prefix="fold-") as file:
                file.truncate(size)
                self._map = mmap.mmap(file.fileno(), size)
                self._file = os.dup(file.fileno())
                self.words = memoryview(self._map).cast("Q")
        except OSError as error:
            raise no_room(folder, error) from None

    def take_room(self, piece: int) -> None:
        """Before the first write to a piece.

        :raises LedgerError: there is none.
        """
        size = STATE_SIZE << _PIECE_SHIFT
        first = piece * size
        try:
            os.posix_fallocate(self._file, first, min(size, len(self._map) - first))
        except OSError as error:
            raise no_room(self._folder, error) from None
        self.room.add(piece)

    def read(self, first: int, count: int) -> bytes:
        return os.pread(self._file, count * STATE_SIZE, first * STATE_SIZE)

    def close(self) -> None:
        self.words.release()
        self._map.close()
        os.close(self._file)


class Fold:
    """The states of a run's blocks and its totals, folded from its journal."""

    def __init__(self, journal: Path, plan: Plan) -> None:
        self.plan = plan
        self.totals = Totals()
        self._pending: dict[int, int] = {}
        self._states = _States(journal.parent, plan.blocks)
        reader = FrameReader()
        heard = 0
        try:
            with journal.open("rb") as file:
                while chunk := file.read(CHUNK):
                    for frame in reader.feed(chunk):
                        if frame.kind is Kind.HEARD:
                            heard = protocol.decode_number(frame)
                        else:
                            self._take(frame, heard)
        except ProtocolError:
            # What a crash leaves behind the last whole frame went when the listener started.
            self.totals.damaged = True
        except BaseException:
            self.close()
            raise
        self.totals.in_flight = len(self._pending)

    def _take(self, frame: Frame, heard: int) -> None:
        totals = self.totals
        if frame.kind is not Kind.NOTE:
            totals.last_heard_us = heard  # notes come from others too
        if frame.kind is Kind.OPEN:
            totals.started_us = heard
        elif frame.kind is Kind.INTENTS:
            first, blocks = protocol.decode_intents(frame)
            self._pending.update(zip(range(first, first + len(blocks)), blocks, strict=True))
            totals.intended = first + len(blocks) - 1
        elif frame.kind is Kind.DONE:
            flat = protocol.decode_done(frame)
            if flat:
                totals.last_ack_heard_us = heard
            states, pending = self._states, self._pending
            words, room = states.words, states.room
            numbers = iter(flat)
            for seq, time_us in zip(numbers, numbers, strict=True):
                block = pending.pop(seq, None)
                if block is None:
                    raise LedgerError(
                        f"The record contradicts itself: it acknowledges write {seq}, never "
                        "intended.  Nothing can be said about the disk: begin a new run."
                    )
                if block >> _PIECE_SHIFT not in room:
                    states.take_room(block >> _PIECE_SHIFT)
                at = 2 * block
                if seq > words[at]:
                    words[at], words[at + 1] = seq, time_us
                if block >= totals.end_block:
                    totals.end_block = block + 1
                if time_us > totals.last_ack_us:
                    totals.last_ack_us = time_us
            totals.acked += len(flat) // 2
        elif frame.kind is Kind.NOTE:
            note = protocol.decode_json(frame)
            if note.get("note") == "stopped":
                totals.stopped = True
            elif note.get("note") == "cut":
                totals.cut_us = heard
            elif note.get("note") == "ended":
                totals.ended = str(note.get("how"))
            elif note.get("note") == "damaged":
                totals.damaged = True
            elif len(totals.notes) < MAX_NOTES:
                # By their order: the clock may have been set meanwhile.
                after = {"after_cut": True} if totals.cut_us else {}
                totals.notes.append({**note, "heard_us": heard, **after})

    def states(self, first: int, count: int) -> bytes:
        """16 bytes a block: acknowledged seq (0: none), its time in µs."""
        return self._states.read(first, count)

    def close(self) -> None:
        self._states.close()
