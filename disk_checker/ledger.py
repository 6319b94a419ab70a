"""The record on the machine that keeps its power.

Theory of operation.  A run is one file, ``<run id>.journal``: frames as they came from
the victim, appended and fsynced *before* they are answered.  Nothing else is ever
needed: not memory, not a second file.  A listener that is killed at any moment leaves a
prefix of the frames; the end of that prefix is found by the frames' checksums, and every
frame that was answered is in it.

What the frames add up to is folded when somebody asks (:mod:`disk_checker.fold`).

How a run ended is known here alone, and noted: by a goodbye ("stopped"), a closed connection
or silence, which is all that a power cut leaves; a journal without such a note is one whose
listener was ended, and its writer stopped with it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import secrets
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from disk_checker import protocol
from disk_checker.errors import LedgerError, ProtocolError, Refused
from disk_checker.fold import CHUNK, Fold, no_room
from disk_checker.plan import Plan
from disk_checker.protocol import Frame, FrameReader, Kind

log = logging.getLogger("disk_checker.ledger")

MAX_IN_FLIGHT = 1 << 20
"""Intents of a run that may wait for their acknowledgement: bounds the fold's memory."""

_RUN_NAME = re.compile("[0-9a-f]{16}")
_HEARD = re.compile(rb"\x08\0\0\0(.{4})(\x10)(.{8})", re.DOTALL)


def _is_end(frame: Frame) -> bool:
    """Whether it tells how the run ended, or that the power is being cut."""
    return frame.kind is Kind.NOTE and protocol.decode_json(frame).get("note") in (
        "stopped",
        "cut",
        "ended",
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def run_name(run: int) -> str:
    """A run's id as people and files write it."""
    return f"{run:016x}"


def no_record(run: int) -> Refused:
    """The refusal of a run that this ledger does not have."""
    return Refused(
        f"This listener has no record of run {run_name(run)}: `create` says a run's id in its "
        "first line; or another listener (or another --state) recorded it."
    )


class Journal:
    """One run's file, open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def append(self, data: bytes) -> None:
        """Add frames and wait until they are on disk.

        :raises LedgerError: when they are not; then nothing of them stays.
        """
        stamp = protocol.encode_number(Kind.HEARD, time.time_ns() // 1000)
        rest = memoryview(stamp + data)
        with _alone(self._file):
            before = os.fstat(self._file).st_size
            try:
                while rest:
                    rest = rest[os.write(self._file, rest) :]
                os.fdatasync(self._file)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(self._file, before)
                raise no_room(self.path.parent, error) from None

    def end(self, how: str) -> None:
        """Note how the run ended; see `Totals.ended`."""
        self.append(protocol.encode_json(Kind.NOTE, {"note": "ended", "how": how}))

    def close(self) -> None:
        os.close(self._file)


@contextmanager
def _alone(descriptor: int) -> Iterator[None]:
    """A note of somebody else never stands amid what is appended, and may be taken back."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


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
            if _RUN_NAME.fullmatch(path.stem):
                self._recover(path)

    def _recover(self, path: Path) -> None:
        """Read a run's plan; move what a crash left behind its last whole frame aside."""
        reader = FrameReader()
        plan: Plan | None = None
        over = damaged = False
        try:
            with path.open("r+b") as file:
                with suppress(ProtocolError):
                    while chunk := file.read(CHUNK):
                        for frame in reader.feed(chunk):
                            if frame.kind is Kind.OPEN:
                                plan = Plan.model_validate(protocol.decode_json(frame))
                            over = over or _is_end(frame)
                if plan is None:
                    return  # the listener died before it answered OPEN: nobody relies on it
                if file.seek(0, os.SEEK_END) != reader.consumed:
                    damaged = self._set_tail_aside(path, file, reader.consumed)
        except (OSError, ValueError) as error:
            raise LedgerError(
                f"{path}: not a journal of this version ({_first_line(error)}): move it to "
                "another folder, or give another --state"
            ) from None
        self.plans[int(path.stem, 16)] = plan
        journal = Journal(path)
        try:
            if damaged:
                journal.append(protocol.encode_json(Kind.NOTE, {"note": "damaged"}))
            if not over:
                journal.end("listener")
        finally:
            journal.close()

    def _set_tail_aside(self, path: Path, file: BinaryIO, good: int) -> bool:
        """Move what is unreadable out of a journal; whether it had been answered.

        A crash leaves at most what was not answered, which is one group: it begins with the one
        HEARD frame that it has.  With another one behind the first unreadable byte, a group was
        followed by a later one, so it had been on disk.
        """
        file.seek(good)
        tail = file.read()
        with path.with_suffix(".tail").open("ab") as aside:
            aside.write(tail)
        log.warning("%s: %d unreadable bytes at its end moved aside", path, len(tail))
        file.truncate(good)
        os.fsync(file.fileno())
        return any(
            zlib.crc32(found[3], zlib.crc32(found[2])) == int.from_bytes(found[1], "little")
            for found in _HEARD.finditer(tail)
        )

    def path(self, run: int) -> Path:
        return self.folder / f"{run_name(run)}.journal"

    def open_run(self, plan: Plan) -> tuple[int, Journal]:
        """Begin a run: its id (greater than all before) and its journal, both on disk.

        :raises LedgerError: when there is no room for it, and so on.
        """
        newest = max(plan.prior_run, *self.plans, 0)
        run = max((time.time_ns() // 1_000_000) << 22 | secrets.randbits(22), newest + 1)
        path = self.path(run)
        try:
            with path.open("xb"):
                pass
            journal = Journal(path)
            journal.append(protocol.encode_json(Kind.OPEN, plan.model_dump(mode="json")))
            folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise no_room(self.folder, error) from None
        self.plans[run] = plan
        return run, journal

    def find(self, machine: str, target: str) -> int:
        """The newest run on a target.

        :raises Refused: when there is none.
        """
        own = {run: plan.target for run, plan in self.plans.items() if plan.machine == machine}
        runs = [run for run, name in own.items() if name == target]
        if not runs:
            others = sorted({*own.values()})[:3]
            raise Refused(
                f"This listener has no record of {target} on this host"
                + (f" (it has: {', '.join(others)})" if others else "")
                + ". If the target or the host has another name now, say --run with the id that "
                "`create` said in its first line; else another listener (or another --state) "
                "recorded it, or the record is lost: then nothing can be said about the disk."
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
        """Put a verifier's report beside the run's journal.

        :raises LedgerError: when it cannot be written.
        """
        path = self.folder / f"{run_name(run)}.report.json"
        new = path.with_suffix(".new")
        try:
            with new.open("w") as file:
                json.dump(report, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            raise no_room(self.folder, error) from None
        return path

    def close(self) -> None:
        os.close(self._lock)
