"""One request on its way through a reverse proxy.

A request waits (in a queue), is with a node, or is finished.  What its body has brought
before a node has it is held here, or on the disk (`spool`); when a node has it, the body is
passed on piece by piece, and the slower side sets the pace.

When may a request be sent a second time?  Only when the node that had it has not begun to
answer, all of it can be sent again, and doing it twice does no more than doing it once:
GET, HEAD, OPTIONS and TRACE without a body.  Anything else may have had its effect
although no answer came; the client is told 502.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lj_services.perlbal.frontend import ClientConnection
from lj_services.perlbal.http.chunked import LAST_CHUNK, chunk
from lj_services.perlbal.http.head import CHUNKED, RequestHead
from lj_services.perlbal.proxy.headers import head_for_node, lines_for_node
from lj_services.perlbal.proxy.queues import Priority
from lj_services.perlbal.proxy.spool import TELL_WHY, Spool, reason

if TYPE_CHECKING:
    from lj_services.perlbal.nodes import Node
    from lj_services.perlbal.proxy.backend import Backend
    from lj_services.perlbal.proxy.owner import Owner

SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})
MOST_TRIES: Final = 3


class Exchange:
    """One request, the client that waits for its response, and the node that makes it.

    Attributes:
        client: who asks.
        request: what; plug-ins may change it before it is sent.
        role: whose nodes are asked.
        backend: the connection that has it now, or None.
        priority: which queue it waits in.
        node: the only one that it may go to; None: any.
        asked_at: loop time at which it began to wait for a node.
        tries: how many nodes had it.
        session: what its upload is called to those who are told of its progress, if they are.
        responded: whether the client has been sent the beginning of a response.
    """

    __slots__ = (
        "_asked",
        "_began",
        "_chunked",
        "_held",
        "_spool",
        "_started",
        "_told",
        "asked_at",
        "backend",
        "body_size",
        "client",
        "error_tries",
        "node",
        "priority",
        "queued",
        "request",
        "responded",
        "role",
        "session",
        "tries",
    )

    has_file = False

    def __init__(self, client: ClientConnection, role: Owner) -> None:
        self.client = client
        self.request: RequestHead = client.request
        self.role = role
        self.backend: Backend | None = None
        self.priority = Priority.NORMAL
        self.node: Node | None = None
        self.asked_at = 0.0
        self.tries = 0
        self.error_tries = 0
        self.responded = False
        self.queued = False
        self.body_size = 0
        self.session = b""
        self._told = -1
        self._started = 0
        self._held: list[bytes] = []
        self._asked = False
        self._began = role.balancer.now
        self._spool: Spool | None = None
        self._chunked = False

    # -- what the client's connection tells ---------------------------------------

    def body(self, data: bytes) -> None:
        """Pass a piece on, put it to the disk, or hold it."""
        self.body_size += len(data)
        if self.session:
            self._tell_progress()
        if self._spool is not None:
            self._spool_piece(self._spool, data)
            return
        if not self._asked and (why := self._why_to_disk()):
            self._spool_piece(self._put_to_disk(why), data)
            return
        if self.backend is not None:
            self.backend.write(chunk(data) if self._chunked else data)
            return
        self._held.append(data)
        if self.body_size >= self.role.parameters.buffer_backend_connect:
            self.client.pause_reading()
            self._ask()

    def body_done(self) -> None:
        """The whole request has come."""
        if self._spool is not None:
            self._spool.finish()
        elif self.backend is not None:
            if self._chunked:
                self.backend.write(LAST_CHUNK)
        else:
            self._ask()

    def client_full(self) -> None:
        """Take no more from the node for now."""
        if self.backend is not None:
            self.backend.pause_reading()

    def client_ready(self) -> None:
        """Take from the node again."""
        if self.backend is not None:
            self.backend.resume_reading()

    def client_gone(self) -> None:
        """Nobody waits for the response any more."""
        self.role.abandon(self)
        self.drop_spool()

    def describe(self) -> str:
        """A few words for the console."""
        text = f"; backend={self.backend.node.name}" if self.backend is not None else ""
        if self.priority != Priority.NORMAL:
            text += "; highpri" if self.priority == Priority.HIGH else "; lowpri"
        if self._spool is not None:
            text += "; spooled"
        return text + ("; responded" if self.responded else "")

    def _tell_progress(self) -> None:
        """Say how far it is: once a second, and at its end."""
        wall = self.role.balancer.wall
        total = self.request.length
        if self._told < 0:
            self._told = 0
            self._started = wall
        if self._told != wall or self.body_size == total:
            self._told = wall
            self.role.progress.tell(self.session, self.body_size, total, self._started)

    # -- a body on the disk -------------------------------------------------------

    def _why_to_disk(self) -> str:
        parameters = self.role.parameters
        elapsed_s = self.role.balancer.now - self._began
        return reason(parameters, self.request.length, self.body_size, elapsed_s)

    def _put_to_disk(self, why: str) -> Spool:
        folder = self.role.parameters.buffer_uploads_path
        assert folder is not None
        self._spool = spool = Spool(self, folder, why)
        for piece in self._held:
            spool.write(piece)
        self._held = []
        return spool

    def _spool_piece(self, spool: Spool, data: bytes) -> None:
        spool.write(data)
        if not spool.fits:
            spool.close()
            self.not_stored(503)

    def stored(self) -> None:
        """All of the body is on the disk."""
        self._ask()

    def not_stored(self, status: int) -> None:
        """The body can't be put to the disk."""
        if self.client.exchange is self:
            self.client.error(status, "The upload can't be stored at the moment.")
            self.role.ended(self)

    def drop_spool(self) -> None:
        """Nothing is wanted from the disk any more."""
        if self._spool is not None:
            self._spool.close()

    @property
    def body_sent(self) -> bool:
        """Whether the node has been given the whole request."""
        if not self.request.length:
            return True
        return self.client.body_complete and (self._spool is None or self._spool.sent)

    def assigned(self, backend: Backend) -> None:
        """A node has the head, and what was held of the body."""
        if self._spool is not None:
            self._spool.send(backend)
        elif self.body_size:
            self.client.resume_reading()

    def node_full(self) -> None:
        """The node does not read fast enough: take no more of the body."""
        if self._spool is not None:
            self._spool.hold()
        else:
            self.client.pause_reading()

    def node_ready(self) -> None:
        """The node has read."""
        if self._spool is not None:
            self._spool.go_on()
        else:
            self.client.resume_reading()

    # -- on its way ---------------------------------------------------------------

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self.role.request_backend(self)

    def ask(self) -> None:
        """Ask for a node: the request has no body."""
        self._asked = True
        self.role.request_backend(self)

    def head(self, *, persist: bool) -> bytes | None:
        """The head for the node, or None if a plug-in has answered the client."""
        client = self.client
        head = self.role.plain.head(self.request, client)
        if head is not None:
            return head
        service = self.role.service
        lines = lines_for_node(client, self.request, service)
        if TELL_WHY and self._spool is not None:
            lines.append(b"X-PERLBAL-BUFFERED-UPLOAD-REASON: " + self._spool.why.encode())
        if "backend_client_assigned" in service.hooks.by_point and service.hooks.run(
            "backend_client_assigned", self, lines
        ):
            return None
        whole = client.body_complete
        self._chunked = self.request.length == CHUNKED and not whole
        return head_for_node(
            self.request, lines, persist=persist, body=self.body_size if whole else None
        )

    def take_held(self) -> list[bytes]:
        """What has come of the body so far, to be written behind the head."""
        held, self._held = self._held, []
        if held and self._chunked:
            return [chunk(b"".join(held))]
        return held

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent to a node again after one that had it was lost."""
        return (
            not self.responded
            and self.tries < MOST_TRIES
            and self.request.method in SAFE
            and self.request.length == 0
            and not self.request.upgrade
        )
