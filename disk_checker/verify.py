"""`disk-checker verify`: read the target, compare it with the record.

One pass in the order of the blocks: the listener sends the states of some, one of several
processes (:mod:`disk_checker.examine`) reads these past the page cache, and recognises each
whole (:mod:`disk_checker.scan`) or judges it sector by sector.  Memory does not grow with
the target.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from disk_checker import host, protocol
from disk_checker.classify import Finding, judge_block
from disk_checker.errors import ProtocolError, Refused, TargetError
from disk_checker.fold import Totals
from disk_checker.ledger import run_name
from disk_checker.plan import Plan
from disk_checker.protocol import Kind
from disk_checker.reach import reachable
from disk_checker.result import MIN_ACKED, Result
from disk_checker.stamp import SECTOR
from disk_checker.target import open_reader, read_at, real_path, slot_name
from disk_checker.uplink import Call

if TYPE_CHECKING:
    from disk_checker.examine import Examined

_CHUNK = 4 << 20
_SETTLE_S = 3.0
_SILENCE_S = 12.0
"""A writer that is silent for so long is gone for the listener too."""

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


def verify(
    address: str,
    path: Path,
    *,
    run: int | None = None,
    size: int | None = None,
    same_boot: bool = False,
    device: str = "",
    min_acked: int = MIN_ACKED,
    progress: Progress = lambda _done, _all: None,
) -> Result:
    """Verify a target after the cut, and leave the report with the listener.

    :param run: which run; None: the newest one on this path of this host.
    :param size: bytes that the run must have had; None: any.
    :param same_boot: the disk lost its power, this host did not (a JBOD, a rig).
    :param device: where the file system is now, if its device's name changed.
    :raises DiskCheckerError: when it cannot be done; the text says what to do.
    """
    path = real_path(path)
    with Call(address) as call:
        ask = {"machine": host.machine(), "target": str(path), "run": run}
        record = _ask(call, ask)
        try:
            plan = Plan.model_validate_json(json.dumps(record["plan"]))
            totals = Totals(**record["totals"])
        except (ValidationError, TypeError):
            raise ProtocolError(
                f"The listener at {address} is of another version: use the same one on both sides."
            ) from None
        result = Result(record["run"], plan, totals, min_acked=min_acked, same_boot=same_boot)
        if record["writing"]:
            raise Refused(
                f"Run {run_name(result.run)} is still connected and writing, nothing was cut yet: "
                "verify after the cut."
            )
        if size is not None and size - size % plan.block_size != plan.size:
            raise TargetError(
                f"Run {run_name(result.run)} wrote {plan.size} bytes, not {size}: give that size, "
                "the --run that you mean, or the right FILE."
            )
        judge = Judge(result)
        begun = time.monotonic()
        if plan.boot == host.boot() and not same_boot:
            result.doubts.append(
                "this host has not been restarted since the run began; if only the disk lost "
                "its power, say --same-boot"
            )
        if reachable(path, plan, device, result):
            if plan.kind == "folder":
                _check_folder(call, path, judge, progress)
            else:
                _check_file(call, path, judge, progress)
            # A device that has another name now may have lost all; `reach` compared what it could.
            elsewhere = (plan.machine, plan.target) != (host.machine(), str(path))
            elsewhere = elsewhere and plan.kind != "device"
            if elsewhere and not result.checked and not result.newest_survivor_us:
                raise TargetError(
                    f"{path} holds nothing of run {run_name(result.run)}, which wrote to "
                    f"{plan.target} of {plan.hostname}: wrong --run, or wrong FILE."
                )
        result.seconds = time.monotonic() - begun
        return result


def _ask(call: Call, ask: dict[str, Any]) -> dict[str, Any]:
    """The run's record.

    A writer that was just killed may still be connected for the listener, which has its last
    messages to put on disk; one whose power went is so until the listener notices its silence.
    """
    begun = time.monotonic()
    heard: int | None = None
    while True:
        call.send(protocol.encode_json(Kind.ASK, ask))
        record = protocol.decode_json(call.receive(Kind.RECORD))
        last = int(record["totals"]["last_heard_us"])
        heard = last if heard is None else heard
        patience = _SILENCE_S if last == heard else _SETTLE_S
        if not record["writing"] or time.monotonic() - begun > patience:
            return record
        time.sleep(0.1)


def keep(address: str, result: Result) -> None:
    """Leave the report with the listener, beside the run's journal."""
    with Call(address) as call:
        call.send(protocol.encode_json(Kind.RESULT, {**result.as_json(), "run": result.run}))
        call.receive(Kind.KEPT)


def note(address: str, run: int, what: Literal["cut", "stopped"]) -> None:
    """Note in a run's record that the power is being cut now, or that nothing was cut.

    Errors after a cut are the cut's.
    """
    with Call(address) as call:
        call.send(protocol.encode_json(Kind.NOTE, {"run": run, "note": what}))
        call.receive(Kind.NOTED)


def _states(call: Call, blocks: int, piece: int) -> Iterator[tuple[int, bytes]]:
    """(first block, seq, time, seq, time ...) in order; the listener is asked one piece ahead."""

    def ask(first: int) -> None:
        call.send(protocol.encode_range(first, min(piece, blocks - first)))

    ask(0)
    for first in range(0, blocks, piece):
        if first + piece < blocks:
            ask(first + piece)
        yield first, call.receive(Kind.STATES).payload


def _check_file(call: Call, path: Path, judge: Judge, progress: Progress) -> None:
    result = judge.result
    plan, totals = result.plan, result.totals
    size = host.device_size(path) if path.is_block_device() else path.stat().st_size
    if path.is_block_device() and size < plan.size:
        raise TargetError(
            f"{path} has {size} bytes, run {run_name(result.run)} wrote to {plan.size} of its "
            "disk: this is another one; `lsblk` lists those that there are."
        )
    if plan.kind == "file" and size > plan.size:
        raise TargetError(
            f"{path} has {size} bytes, run {run_name(result.run)} wrote at most {plan.size}: this "
            "is not its file, or somebody wrote to it since; begin a new run."
        )
    if plan.kind == "file" and size < totals.end_block * plan.block_size:
        result.remarks.append(
            f"the file has {size:,} bytes; {totals.end_block * plan.block_size:,} were acknowledged"
        )
    chunk = max(1, _CHUNK // plan.block_size) * plan.block_size
    chunk = -(-chunk // mmap.PAGESIZE) * mmap.PAGESIZE
    while chunk % plan.block_size:  # a block size that is no power of two
        chunk += mmap.PAGESIZE
    per_chunk = chunk // plan.block_size
    # See `Judge`.
    from disk_checker.examine import Readers

    with Readers(path, judge.rules, chunk) as readers:
        for first, examined in readers.examine(_states(call, plan.blocks, per_chunk)):
            judge.take(examined)
            result.bytes_read += examined.got
            progress(min((first + per_chunk) * plan.block_size, plan.size), plan.size)


class Judge:
    """Applies the rules to blocks and counts."""

    def __init__(self, result: Result) -> None:
        # Imported when used: nobody who only writes or listens shall wait for numpy.
        from disk_checker.examine import Examiner, Rules

        self.result = result
        plan = result.plan
        self.rules = Rules(
            result.run,
            plan.block_size,
            result.totals.intended,
            plan.threads,
            plan.prior == "unknown",
        )
        self._examiner = Examiner(self.rules)
        self._stamper = self._examiner.stamper

    def chunk(
        self, first: int, states: array[int], buffer: mmap.mmap | bytearray, got: int
    ) -> None:
        """All blocks of a chunk of which ``got`` bytes were there."""
        self.take(self._examiner.chunk(first, states, buffer, got))

    def take(self, examined: Examined) -> None:
        """What neighbouring blocks hold."""
        result, scanned = self.result, examined.scanned
        result.checked += scanned.sound + examined.sound
        result.newer += scanned.newer
        result.survivor(scanned.survivor_us, scanned.survivors)
        for finding in examined.findings:
            result.add(finding)

    def slot(self, block: int, data: bytes | OSError | None, acked: int, acked_us: int) -> None:
        """One slot of a folder: an old content under the name is a rename that was lost."""
        if data is None or isinstance(data, OSError):
            if acked and data is None:
                self.result.add(Finding.stale(block, 0, acked, acked_us, "there is no such name"))
            elif isinstance(data, OSError) and acked:
                self.result.add(self._examiner.unreadable(block, data, acked, acked_us))
            return
        finding = judge_block(
            self._stamper, block, data, acked, acked_us, self.result.totals.intended, offset=0
        )
        if finding is not None and finding.cls == "lost":
            found = f"the rename is undone: {finding.found}"
            finding = Finding.stale(block, 0, acked, acked_us, found)
        if finding is not None:
            self.result.add(finding)
        elif acked:
            self.result.checked += 1
        if finding is None and len(data) >= SECTOR:
            word = memoryview(data).cast("Q")
            self.result.survivor(word[62], {block % self.result.plan.threads: word[61]})


def _check_folder(call: Call, path: Path, judge: Judge, progress: Progress) -> None:
    result, plan = judge.result, judge.result.plan
    for first, payload in _states(call, plan.blocks, 4096):
        states = array("Q", payload)
        for index in range(len(states) // 2):
            acked, acked_us = states[2 * index], states[2 * index + 1]
            data = _read_slot(path, first + index, plan)
            result.bytes_read += len(data) if isinstance(data, bytes) else 0
            judge.slot(first + index, data, acked, acked_us)
        progress(min(first + 4096, plan.blocks) * plan.block_size, plan.size)


def _read_slot(path: Path, block: int, plan: Plan) -> bytes | OSError | None:
    """A slot's content; None when the name is gone."""
    try:
        reader, direct = open_reader(path / slot_name(block))
    except FileNotFoundError:
        return None
    except OSError as error:
        return error
    try:
        with mmap.mmap(-1, -(-plan.block_size // mmap.PAGESIZE) * mmap.PAGESIZE) as buffer:
            return buffer[: min(plan.block_size, read_at(reader, direct, buffer, 0))]
    except OSError as error:
        return error
    finally:
        os.close(reader)
