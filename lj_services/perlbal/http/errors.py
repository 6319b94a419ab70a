"""What is wrong with a message, as an HTTP status."""

from __future__ import annotations


class BadMessage(Exception):
    """A message that is refused; its connection can't be used any further.

    Attributes:
        status: the status to answer a client with (a bad response becomes 502).
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
