"""A balancer with AtomStream, who gives it feeds, and who listens to them."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.perlbal import Answer, Balancer, Start, Talk
from tests.support.process import free_port

CONFIG = """
LOAD atomstream
LOAD atominject
CREATE SERVICE updates
  SET role    = selector
  SET listen  = 127.0.0.1:PORT
  SET plugins = atomstream
ENABLE updates
CREATE SERVICE inject
  SET role    = selector
  SET listen  = 127.0.0.1:INJECT
  SET plugins = atominject
ENABLE inject
"""
LISTEN = b"GET /atom-stream.xml%b HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Updates:
    """The balancer; `inject` is the port that takes feeds."""

    balancer: Balancer
    inject: int

    def put(self, body: bytes) -> Answer:
        """Give it a feed, over a connection of its own."""
        head = b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
        with Talk(self.inject) as talk:
            return talk.ask(head % len(body) + body)

    def listen(self, query: bytes = b"") -> Talk:
        """A listener that has read the beginning."""
        talk = self.balancer.talk()
        talk.send(LISTEN % query)
        while (line := talk.line()) != b"<atomStream>\n":
            assert line
        return talk


def updates(start: Start, *words: str) -> Updates:
    """A running one; `words` are further ones of its command line."""
    inject = free_port()
    return Updates(start(CONFIG.replace("INJECT", str(inject)), "ours", *words), inject)


def feeds(talk: Talk, count: int) -> list[bytes]:
    """The next feeds, without the time."""
    found: list[bytes] = []
    while len(found) < count:
        line = talk.line()
        assert line, "the stream has ended"
        if not line.startswith(b"<time>"):
            found.append(line.rstrip())
    return found
