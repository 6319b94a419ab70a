"""Many worker processes under one parent, which replaces those that end.

A child that ends after its `max_jobs`, or dies, is replaced; one that dies at once is
replaced with growing pauses.  SIGTERM or SIGINT lets every child finish its job; a
second one, or `stop_timeout_s`, ends them at once, and their servers then give those
jobs to other workers.  If the parent itself is killed, its children end after their job.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

from lj_services.gearman.worker import Worker

log = logging.getLogger(__name__)

_QUICK_DEATH_S = 1.0
_MAX_PAUSE_S = 10.0
_TICK_S = 0.5


class Prefork:
    """The parent of `processes` workers.  Its process must have no other threads."""

    def __init__(
        self,
        make_worker: Callable[[], Worker],
        *,
        processes: int,
        max_jobs: int | None = None,
        stop_timeout_s: float = 60.0,
    ) -> None:
        """
        Args:
            make_worker: makes a worker, in the child.
            processes: how many there are at any time.
            max_jobs: a child ends after so many jobs, and gives back its memory.
            stop_timeout_s: how long jobs may go on after SIGTERM, in seconds.
        """
        self._make_worker = make_worker
        self._processes = processes
        self._max_jobs = max_jobs
        self._stop_timeout_s = stop_timeout_s
        self._children: dict[int, float] = {}  # pid -> when it was started
        self._signals = 0
        self._start_at = 0.0
        self._pause_s = 0.0

    def run(self) -> bool:
        """Run until SIGTERM or SIGINT; whether all jobs could finish."""
        watched = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
        before = {number: signal.signal(number, self._signal) for number in watched}
        # Blocked except in sigtimedwait: none comes between looking and waiting.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
        try:
            while not self._signals:
                self._reap()
                while len(self._children) < self._processes and time.monotonic() >= self._start_at:
                    self._fork(mask)
                self._wait(watched)
            return self._stop(watched)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signal(self, _number: int, _frame: FrameType | None) -> None:
        """Only there so that the signals are not ignored: `_wait` takes them."""

    def _wait(self, watched: set[signal.Signals]) -> None:
        info = signal.sigtimedwait(watched, _TICK_S)
        if info is not None and info.si_signo != signal.SIGCHLD:
            self._signals += 1

    def _fork(self, mask: set[int | signal.Signals]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._children[pid] = time.monotonic()
            return
        status = 1
        try:
            status = self._child(mask, parent)
        except BaseException:
            log.exception("a worker died")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _child(self, mask: set[int | signal.Signals], parent: int) -> int:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        worker = self._make_worker()
        stop_with(worker)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        worker.run(max_jobs=self._max_jobs, parent=parent)
        return 0

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            started = self._children.pop(pid, 0.0)
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                self._pause_s = 0.0
                continue
            quick = time.monotonic() - started < _QUICK_DEATH_S
            self._pause_s = min(max(self._pause_s * 2, 0.1), _MAX_PAUSE_S) if quick else 0.0
            self._start_at = time.monotonic() + self._pause_s
            log.warning("a worker ended", extra={"pid": pid, "code": code, "pause": self._pause_s})

    def _stop(self, watched: set[signal.Signals]) -> bool:
        log.info("stopping", extra={"workers": len(self._children)})
        self._send(signal.SIGTERM)
        deadline = time.monotonic() + self._stop_timeout_s
        clean = True
        while True:
            self._reap()
            if not self._children:
                return clean
            if clean and (self._signals > 1 or time.monotonic() > deadline):
                log.warning("ending workers with a job", extra={"workers": len(self._children)})
                self._send(signal.SIGKILL)
                clean = False
            self._wait(watched)

    def _send(self, number: signal.Signals) -> None:
        for pid in self._children:
            os.kill(pid, number)


def stop_with(worker: Worker) -> None:
    """Let SIGTERM and SIGINT stop a worker after its current job."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        worker.stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)
