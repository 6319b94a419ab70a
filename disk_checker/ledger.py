"""The record on the machine that keeps its power.

Theory of operation.  A run is one file, ``<run id>.journal``: frames as they came from
the victim, appended and fsynced *before* they are answered.  Nothing else is ever
needed: not memory, not a second file.  A listener that is killed at any moment leaves a
prefix of the frames; the end of that prefix is found by the frames' checksums, and every
frame that was answered is in it.

The state of every block (the last acknowledged write and its time) is *folded* from the
journal when somebody asks: into a nameless file, 16 bytes a block, sparse, mapped into
memory, so that the kernel and not this process decides how much of it stays in memory.
What the fold keeps of its own is bounded by the writes in flight: an intent is
remembered until its acknowledgement comes.

A write counts as acknowledged only if its DONE frame is in the journal.  An intent
without one (in flight when the power went, or failed) makes its content *allowed* on
disk, never required.
"""

from __future__ import annotations

import fcntl
import json
import logging
import mmap
import os
import secrets
import struct
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from disk_checker import protocol
from disk_checker.errors import LedgerError, ProtocolError, Refused
from disk_checker.plan import Plan
from disk_checker.protocol import Frame, FrameReader, Kind

log = logging.getLogger("disk_checker.ledger")

MAX_IN_FLIGHT = 1 << 20
"""Intents of a run that may wait for their acknowledgement: bounds the fold's memory."""

MAX_NOTES = 1000

_STATE = struct.Struct("<QQ")
STATE_SIZE = _STATE.size
_CHUNK = 1 << 20


def run_name(run: int) -> str:
    """A run's id as people and files write it."""
    return f"{run:016x}"


def no_record(run: int) -> Refused:
    """The refusal of a run that this ledger does not have."""
    return Refused(
        f"This listener has no record of run {run_name(run)}: `create` says a run's id in its "
        "first line; or another listener (or another --state) recorded it."
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
    notes: list[dict[str, Any]] = field(default_factory=list)
    """errors, findings of read-backs, and so on; the first thousand"""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Journal:
    """One run's file, open for appending."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def append(self, data: bytes) -> None:
        """Add frames and wait until they are on disk."""
        stamp = protocol.encode_number(Kind.HEARD, time.time_ns() // 1000)
        rest = memoryview(stamp + data)
        while rest:
            rest = rest[os.write(self._file, rest) :]
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


class Fold:
    """The states of a run's blocks and its totals, folded from its journal."""

    def __init__(self, journal: Path, plan: Plan) -> None:
        self.plan = plan
        self.totals = Totals()
        self._pending: dict[int, int] = {}
        with tempfile.TemporaryFile(dir=journal.parent, prefix="fold-") as states:
            states.truncate(plan.blocks * STATE_SIZE)
            self._map = mmap.mmap(states.fileno(), plan.blocks * STATE_SIZE)
        reader = FrameReader()
        heard = 0
        with journal.open("rb") as file:
            try:
                while chunk := file.read(_CHUNK):
                    for frame in reader.feed(chunk):
                        if frame.kind is Kind.HEARD:
                            heard = protocol.decode_number(frame)
                        else:
                            self._take(frame, heard)
            except ProtocolError:
                pass  # the end of what was answered: see above
        self.totals.in_flight = len(self._pending)

    def _take(self, frame: Frame, heard: int) -> None:
        totals = self.totals
        totals.last_heard_us = heard
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
            states = self._map
            pending = self._pending
            numbers = iter(flat)
            for seq, time_us in zip(numbers, numbers, strict=True):
                block = pending.pop(seq, None)
                if block is None:
                    raise LedgerError(f"the journal acknowledges write {seq}, never intended")
                at = block * STATE_SIZE
                if seq > _STATE.unpack_from(states, at)[0]:
                    _STATE.pack_into(states, at, seq, time_us)
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
            elif len(totals.notes) < MAX_NOTES:
                totals.notes.append({**note, "heard_us": heard})

    def states(self, first: int, count: int) -> bytes:
        """16 bytes a block: acknowledged seq (0: none), its time in µs."""
        return self._map[first * STATE_SIZE : (first + count) * STATE_SIZE]

    def close(self) -> None:
        self._map.close()


class Ledger:
    """All runs of a state folder.

    :param folder: made if need be; one listener at a time works on it.
    :raises LedgerError: when another listener has it, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"{folder}: {error.strerror}; give another --state") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise LedgerError(
                f"{folder}: another listener works on it; stop that one, or give another --state"
            ) from None
        self.plans: dict[int, Plan] = {}
        for path in sorted(folder.glob("*.journal")):
            self._recover(path)

    def _recover(self, path: Path) -> None:
        """Read a run's plan; move what a crash left behind its last whole frame aside."""
        reader = FrameReader()
        plan: Plan | None = None
        with path.open("r+b") as file:
            try:
                while chunk := file.read(_CHUNK):
                    for frame in reader.feed(chunk):
                        if frame.kind is Kind.OPEN:
                            plan = Plan.model_validate(protocol.decode_json(frame))
            except ProtocolError:
                pass
            except ValidationError as error:
                raise LedgerError(f"{path}: not a journal of this version: {error}") from None
            if plan is None:
                return  # the listener died before it answered OPEN: nobody relies on it
            if file.seek(0, os.SEEK_END) != reader.consumed:
                file.seek(reader.consumed)
                tail = file.read()
                path.with_suffix(".tail").write_bytes(tail)
                log.warning("%s: %d unreadable bytes at its end moved aside", path, len(tail))
                file.truncate(reader.consumed)
                os.fsync(file.fileno())
        self.plans[int(path.stem, 16)] = plan

    def path(self, run: int) -> Path:
        return self.folder / f"{run_name(run)}.journal"

    def open_run(self, plan: Plan) -> tuple[int, Journal]:
        """Begin a run: its id (greater than all before) and its journal, both on disk."""
        newest = max(self.plans, default=0)
        run = max((time.time_ns() // 1_000_000) << 22 | secrets.randbits(22), newest + 1)
        path = self.path(run)
        with path.open("xb"):
            pass
        journal = Journal(path)
        journal.append(protocol.encode_json(Kind.OPEN, plan.model_dump(mode="json")))
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.plans[run] = plan
        return run, journal

    def find(self, machine: str, target: str) -> int:
        """The newest run on a target.

        :raises Refused: when there is none.
        """
        runs = [
            run
            for run, plan in self.plans.items()
            if (plan.machine, plan.target) == (machine, target)
        ]
        if not runs:
            raise Refused(
                f"This listener has no record of {target} on this host: either the run was "
                "recorded by another listener (or another --state), or the record is lost. "
                "Nothing can be said about the disk."
            )
        return max(runs)

    def fold(self, run: int) -> Fold:
        """Fold a run's journal.

        :raises Refused: when the run is unknown or its journal is gone.
        """
        if run not in self.plans or not self.path(run).exists():
            raise no_record(run)
        return Fold(self.path(run), self.plans[run])

    def keep_report(self, run: int, report: dict[str, Any]) -> Path:
        """Put a verifier's report beside the run's journal."""
        path = self.folder / f"{run_name(run)}.report.json"
        new = path.with_suffix(".new")
        with new.open("w") as file:
            json.dump(report, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        return path

    def close(self) -> None:
        os.close(self._lock)
