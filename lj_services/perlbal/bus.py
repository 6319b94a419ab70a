"""What the processes of a balancer tell each other: texts, each on a topic.

Alone, a process hears what it says at once.  Where there are several, the master passes it on
(`workers.relay`), also to the one that said it: so all of them hear the same texts in the same
order, and who has heard its own knows that it is on its way to all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

Hear = Callable[[int, str], None]
"""Given when something was said (seconds since 1970), and what."""


@dataclass
class Said:
    """A text on its way.

    Attributes:
        topic: whoever has subscribed to it hears the text.
        text: what is said.
        keep: how many of the last texts of the topic processes hear that come later.
        heard: called when it has come back; None: by nobody.
    """

    topic: str
    text: str
    keep: int = 0
    heard: Callable[[], None] | None = None


class Bus:
    """A process's end.

    Attributes:
        carry: takes a text to all processes; None: there is only this one.
    """

    def __init__(self) -> None:
        self.carry: Callable[[Said], None] | None = None
        self._subscribed: dict[str, Hear] = {}

    def subscribe(self, topic: str, hear: Hear) -> None:
        """Have texts on a topic heard, by this one and nobody else of the process."""
        self._subscribed[topic] = hear

    def say(self, said: Said) -> None:
        """Say a text to all processes."""
        if self.carry is not None:
            self.carry(said)
            return
        self.hear(said.topic, int(time.time()), said.text)
        if said.heard is not None:
            said.heard()

    def hear(self, topic: str, at: int, text: str) -> None:
        """A text has come that was said at second `at` since 1970."""
        subscribed = self._subscribed.get(topic)
        if subscribed is not None:
            subscribed(at, text)
