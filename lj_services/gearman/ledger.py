"""Which background jobs must be stored before they are acknowledged, and who waits for that.

Theory of operation
===================

What is to be stored and forgotten gathers in a batch.  While one batch is written (somewhere
else, see `commit`), the next one gathers: however slow the disk is, the jobs of all clients
that came meanwhile share the next write.

A client's ``JOB_CREATED`` goes to its outbox at once, in the order of its submissions, as
clients rely on that order; but the outbox is kept back (`Peer.held`) until the batch with
its job is written.  When a batch is taken to be written, how far each outbox has come is
noted (`Peer.mark`): as far as that it leaves when the batch is written.

A job need not wait for the disk: a worker may have it, and finish it, before.  What was
finished before it was taken to be written is not written at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lj_services.gearman.jobs import Job, Peer
from lj_services.gearman.protocol import PacketType, answer, created
from lj_services.gearman.store import Row


@dataclass
class Batch:
    """What is written together."""

    rows: dict[int, tuple[Row, bytes]] = field(default_factory=dict)
    """Number of a job -> what is stored, and its handle."""
    gone: dict[int, None] = field(default_factory=dict)
    """Numbers of jobs that are forgotten first."""
    peers: dict[Peer, None] = field(default_factory=dict)
    """Who waits until it is written."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.gone or self.peers)


class Ledger:
    """Keeps account of what must be stored.

    Args:
        changed: called when there is something to be written, and told whether anybody waits.
    """

    def __init__(self, changed: Callable[[bool], None]) -> None:
        self._changed = changed
        self._batch = Batch()
        self._writing = Batch()

    @property
    def idle(self) -> bool:
        """Whether everything is written."""
        return not self._batch and not self._writing

    @property
    def waited_for(self) -> bool:
        """Whether anybody waits for what is to be written next."""
        return bool(self._batch.peers)

    def keep(self, job: Job) -> None:
        """A job is to be stored that was not."""
        self._batch.rows[number_of(job)] = _row(job), job.handle
        self._changed(False)

    def replace(self, job: Job) -> None:
        """What is stored of a job, or is about to be, is not so any more."""
        number = number_of(job)
        if number not in self._batch.rows:
            self._batch.gone[number] = None
        self.keep(job)

    def hold(self, job: Job, peer: Peer) -> None:
        """A client has submitted a job in the background: it hears of it when it is stored."""
        number = number_of(job)
        if number in self._batch.rows or number in self._writing.rows:
            self._batch.peers[peer] = None
            peer.held = True
            self._changed(True)

    def ended(self, job: Job) -> None:
        """A background job is not there any more."""
        number = number_of(job)
        row = self._batch.rows.pop(number, None)
        if row is None or number in self._batch.gone or number in self._writing.rows:
            self._batch.gone[number] = None
        self._changed(False)

    def again(self, batch: Batch) -> None:
        """A batch could not be written: forget later what it should have forgotten."""
        self._batch.gone.update(batch.gone)

    def cut(self) -> Batch:
        """Take what is to be written now; the next batch begins."""
        batch = self._writing = self._batch
        self._batch = Batch()
        for peer in batch.peers:
            peer.mark = len(peer.outbox)
        return batch

    def settle(self, batch: Batch, failed: Mapping[int, str]) -> list[Peer]:
        """A batch was written.

        Args:
            batch: that `cut` gave.
            failed: number of a job that could not be stored -> why; whoever submitted it
                gets an ``ERROR`` in place of its ``JOB_CREATED``.

        Returns:
            who may be sent something: all of it, or up to the mark if it is still held.
        """
        self._writing = Batch()
        errors = {
            created(batch.rows[number][1]): answer(
                PacketType.ERROR, b"QUEUE_ERROR", f"The job could not be stored: {why}".encode()
            )
            for number, why in failed.items()
        }
        for peer in batch.peers:
            if errors:
                marked = peer.outbox[: peer.mark]
                peer.outbox[: peer.mark] = [
                    errors.get(raw, raw) if type(raw) is bytes else raw for raw in marked
                ]  # what is not bytes is large data
            peer.held = peer in self._batch.peers
        return list(batch.peers)


def _row(job: Job) -> Row:
    return Row(
        number_of(job),
        job.function.name,
        job.unique,
        job.reducer,
        int(job.priority),
        job.run_at,
        job.data,
    )


def number_of(job: Job) -> int:
    """What a job's handle ends with."""
    return int(job.handle.rpartition(b":")[2])
