"""Listening sockets: bound and kept by the master, given to workers as they ask.

A worker asks when a line of its configuration says so, and waits: so the line can be refused
with the reason.  One message is one packet (SOCK_SEQPACKET), the socket goes with the answer
(SCM_RIGHTS, unix(7)).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from lj_services.perlbal.listening import bind, bind_datagrams
from lj_services.perlbal.values import Listen

_LARGEST: Final = 4096


class _Wanted(NamedTuple):
    """What is listened on."""

    listen: Listen
    sndbuf: int
    datagrams: bool

    def bind(self, port: int) -> socket.socket:
        """One of several sockets there, on this port."""
        listen = Listen(self.listen.host, port)
        if self.datagrams:
            return bind_datagrams(listen, shared=True)
        return bind(listen, self.sndbuf, shared=True)


class SocketKeeper:
    """The master's side: all listening sockets, one for each worker at each address.

    Args:
        workers: how many there are.
        console_at: called with an address where the console should be; raises OSError.
    """

    def __init__(self, workers: int, console_at: Callable[[Listen], None]) -> None:
        self._workers = workers
        self._console_at = console_at
        self._kept: dict[_Wanted, list[socket.socket]] = {}
        self._used: dict[_Wanted, int] = {}

    @property
    def addresses(self) -> list[Listen]:
        """Where workers listen."""
        return [wanted.listen for wanted in self._kept]

    def serve(self, channel: socket.socket, number: int, generation: int) -> Callable[[], None]:
        """Answer one worker's questions; returns what ends that.

        Args:
            channel: the master's end; it is closed at the end.
            number: of the worker, from 1.
            generation: of workers.
        """
        loop = asyncio.get_running_loop()
        channel.setblocking(False)

        def stop() -> None:
            if channel.fileno() >= 0:
                loop.remove_reader(channel.fileno())
                channel.close()

        def asked() -> None:
            try:
                question = channel.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                question = b""
            if not question:
                stop()
                return
            found, answer = self._answer(json.loads(question), number, generation)
            data = json.dumps(answer).encode()
            if found is None:
                channel.send(data)
            else:
                socket.send_fds(channel, [data], [found.fileno()])

        loop.add_reader(channel.fileno(), asked)
        return stop

    def _answer(
        self, question: dict[str, Any], number: int, generation: int
    ) -> tuple[socket.socket | None, dict[str, Any]]:
        listen = Listen(question["host"], question["port"])
        try:
            if question["console"]:
                self._console_at(listen)
                return None, {}
            key = _Wanted(listen, question["sndbuf"], question["datagrams"])
            if key not in self._kept:
                self._kept[key] = self._bind(key)
            self._used[key] = generation
        except OSError as error:
            return None, {"errno": error.errno}
        return self._kept[key][number - 1], {}

    def _bind(self, wanted: _Wanted) -> list[socket.socket]:
        port = wanted.listen.port
        if not port or all(each.listen.port != port for each in self._kept):
            # Others than ours must not be there: a socket that shares would not notice them.
            probe = (bind_datagrams if wanted.datagrams else bind)(wanted.listen)
            port = probe.getsockname()[1]
            probe.close()
        made: list[socket.socket] = []
        try:
            for _ in range(self._workers):
                made.append(wanted.bind(port))
        except OSError:
            for each in made:
                each.close()
            raise
        return made

    def forget_others(self, generation: int) -> None:
        """Close what workers of this generation have not asked for."""
        for key in [key for key, used in self._used.items() if used != generation]:
            self._forget(key)

    def keep_only(self, addresses: Collection[str]) -> None:
        """Close all others: who connects to them is refused, and does not wait for nobody.

        Args:
            addresses: where workers listen, as text.
        """
        for key in [key for key in self._kept if str(key.listen) not in addresses]:
            self._forget(key)

    def _forget(self, key: _Wanted) -> None:
        del self._used[key]
        for each in self._kept.pop(key):
            each.close()

    def close(self) -> None:
        """Close everything."""
        for sockets in self._kept.values():
            for each in sockets:
                each.close()
        self._kept.clear()
        self._used.clear()


class SocketClient:
    """A worker's side.

    Args:
        fd: the worker's end.
    """

    def __init__(self, fd: int) -> None:
        self._channel = socket.socket(fileno=fd)
        self._channel.setblocking(True)

    def open(self, listen: Listen, sndbuf: int) -> socket.socket:
        """This worker's socket at an address.

        Raises:
            OSError: it can't be bound, or the master is gone.
        """
        return socket.socket(fileno=self._ask(listen, sndbuf)[0])

    def open_datagrams(self, listen: Listen) -> socket.socket:
        """This worker's socket for datagrams at an address.

        Raises:
            OSError: it can't be bound, or the master is gone.
        """
        return socket.socket(fileno=self._ask(listen, datagrams=True)[0])

    def console_at(self, listen: Listen) -> None:
        """Have the console at an address.

        Raises:
            OSError: it can't be bound, or the master is gone.
        """
        self._ask(listen, console=True)

    def _ask(
        self, listen: Listen, sndbuf: int = 0, *, datagrams: bool = False, console: bool = False
    ) -> list[int]:
        question = {"host": listen.host, "port": listen.port, "sndbuf": sndbuf}
        question |= {"datagrams": datagrams, "console": console}
        self._channel.send(json.dumps(question).encode())
        data, fds, _flags, _address = socket.recv_fds(self._channel, _LARGEST, 1)
        if not data:
            raise ConnectionResetError("the master is gone")
        if (number := json.loads(data).get("errno")) is not None:
            raise OSError(number, os.strerror(number))
        return fds
