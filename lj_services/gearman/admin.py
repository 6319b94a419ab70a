"""The administrator's commands: lines of text in, text out, as gearmand answers them.

A command is a line of words; its own name may be in any case.  Lists end with a line of
one dot; everything else is a line that starts with ``OK`` or ``ERR``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from urllib.parse import quote_plus

from lj_services.gearman.jobs import Peer, Priority
from lj_services.gearman.queues import Queues
from lj_services.gearman.rules import Refused

OK = b"OK\r\n"


class Admin:
    """Answers the administrator's commands.

    Args:
        queues: the server's state.
        peers: gives all connections.
        version: what ``version`` answers.
        log_level: gives the level of logging, for ``verbose``.
        shutdown: ends the server, at once or (True) when running jobs are done; None if
            that is not allowed.
    """

    def __init__(
        self,
        queues: Queues,
        peers: Callable[[], Iterable[Peer]],
        *,
        version: str,
        log_level: Callable[[], str],
        shutdown: Callable[[bool], None] | None,
    ) -> None:
        self._queues = queues
        self._peers = peers
        self._version = version
        self._log_level = log_level
        self._shutdown = shutdown
        self._commands: dict[bytes, Callable[[list[bytes]], bytes]] = {
            b"cancel": self._cancel,
            b"create": self._create,
            b"drop": self._drop,
            b"getpid": lambda _: b"OK %d\n" % os.getpid(),
            b"maxqueue": self._max_queue,
            b"prioritystatus": self._priority_status,
            b"show": self._show,
            b"shutdown": self._end,
            b"status": self._status,
            b"verbose": lambda _: f"OK {self._log_level().upper()}\n".encode(),
            b"version": lambda _: f"OK {self._version}\n".encode(),
            b"workers": self._workers,
        }

    def answer(self, line: bytes) -> bytes:
        """What a line is answered with; nothing for an empty one."""
        words = line.split()
        if not words:
            return b""
        command = self._commands.get(words[0].lower())
        if command is None:
            return _error("UNKNOWN_COMMAND", b"Unknown server command" + words[0])
        try:
            return command(words[1:])
        except IndexError:
            return _error(
                "INVALID_ARGUMENTS",
                b"An incomplete set of arguments was sent to this command " + words[0],
            )

    def _status(self, words: list[bytes]) -> bytes:
        return _list(
            b"%s\t%d\t%d\t%d" % (f.name, f.total, len(f.running), len(f.workers))
            for f in self._queues.functions.values()
        )

    def _priority_status(self, words: list[bytes]) -> bytes:
        return _list(
            b"%s\t%d\t%d\t%d\t%d"
            % (
                f.name,
                f.waiting(Priority.HIGH),
                f.waiting(Priority.NORMAL),
                f.waiting(Priority.LOW),
                len(f.workers),
            )
            for f in self._queues.functions.values()
        )

    def _workers(self, words: list[bytes]) -> bytes:
        lines = []
        for peer in self._peers():
            who = b"%d %s %s :" % (peer.number, peer.address.encode(), peer.client_id)
            lines.append(b" ".join([who, *sorted(peer.abilities)]))
        return _list(lines)

    def _show(self, words: list[bytes]) -> bytes:
        asked = [word.lower() for word in words]
        jobs = self._queues.jobs.values()
        if asked == [b"jobs"]:
            kept = self._queues.ledger is not None
            return _list(
                b"%s\t%d\t%d\t%d" % (job.handle, job.retries, job.ignored, kept and job.background)
                for job in jobs
            )
        if asked == [b"unique", b"jobs"]:
            return _list(job.unique for job in jobs)
        return b"ERR UNKNOWN_SHOW_ARGUMENTS\r\n"

    def _create(self, words: list[bytes]) -> bytes:
        if words[0].lower() != b"function":
            return b"ERR UNKNOWN_CREATE_ARGUMENTS\r\n"
        try:
            self._queues.function(words[1])
        except Refused as refused:
            return _error(refused.code, str(refused).encode())
        return OK

    def _drop(self, words: list[bytes]) -> bytes:
        if words[0].lower() != b"function":
            return b"ERR UNKNOWN_DROP_ARGUMENTS\r\n"
        try:
            self._queues.drop(words[1])
        except Refused as refused:
            return f"ERR {refused}\r\n".encode()
        return OK

    def _cancel(self, words: list[bytes]) -> bytes:
        if words[0].lower() != b"job":
            return b"ERR UNKNOWN_CANCEL_ARGUMENTS\r\n"
        return OK if self._queues.cancel(words[1]) else b"ERR UNKNOWN_JOB\r\n"

    def _max_queue(self, words: list[bytes]) -> bytes:
        name, limits = words[0], words[1:]
        if len(limits) not in (0, 1, len(Priority)):
            raise IndexError
        try:
            numbers = [max(0, int(word)) for word in limits] or [0]
            function = self._queues.function(name)
        except ValueError:
            return _error("INVALID_ARGUMENTS", b"A limit must be a number of jobs; 0: no limit")
        except Refused as refused:
            return _error(refused.code, str(refused).encode())
        function.max_queue = numbers if len(numbers) > 1 else numbers * len(Priority)
        return OK

    def _end(self, words: list[bytes]) -> bytes:
        if words and [word.lower() for word in words] != [b"graceful"]:
            return _error("INVALID_ARGUMENTS", b"shutdown takes nothing, or the word graceful")
        if self._shutdown is None:
            return _error("NOT_ALLOWED", b"shutdown_command is off in the settings of this server")
        self._shutdown(bool(words))
        return OK


def _list(lines: Iterable[bytes]) -> bytes:
    return b"".join(line + b"\n" for line in lines) + b".\n"


def _error(code: str, text: bytes) -> bytes:
    return f"ERR {code} {quote_plus(text)}\r\n".encode()
