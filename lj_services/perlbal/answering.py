"""What answers a request: what a client's connection tells it, and the one that only waits."""

from __future__ import annotations

from typing import Protocol


class Exchange(Protocol):
    """One request being answered: what a client's connection tells it."""

    @property
    def has_file(self) -> bool:
        """Whether it sends a file, and so waits for nobody but the client."""

    @property
    def responded(self) -> bool:
        """Whether the client has been sent the beginning of a response."""

    def body(self, data: bytes) -> None:
        """A piece of the request's body."""

    def body_done(self) -> None:
        """The request's body is complete."""

    def client_full(self) -> None:
        """The client does not read fast enough: send no more."""

    def client_ready(self) -> None:
        """The client has read: go on."""

    def client_gone(self) -> None:
        """The client is gone: stop."""

    def describe(self) -> str:
        """A few words for the console."""


class Waiting:
    """A request that waits for a thread; nothing is sent, and no body is wanted.

    Args:
        what: is waited for, in a few words for the console.
    """

    has_file = False
    responded = False

    def __init__(self, what: str) -> None:
        self._what = what

    def body(self, data: bytes) -> None:
        """Not wanted."""

    def body_done(self) -> None:
        """Not wanted."""

    def client_full(self) -> None:
        """Nothing is being sent."""

    def client_ready(self) -> None:
        """Nothing is being sent."""

    def client_gone(self) -> None:
        """What comes of the thread is dropped by whoever started it."""

    def describe(self) -> str:
        """A few words for the console."""
        return f"; {self._what}"
