"""Heads for nodes, made in one piece where nothing about the request is unusual.

A node is sent a client's fields without those that are for one hop, and then what the service
adds.  The former are ready where they have come before (`http.known`), the latter is the same for
all requests of a client, until a parameter changes.  So a head is put together of the two.

It is not where more has to be looked at than that: plug-ins that see the lines, ``HEADER
REMOVE``, a client's field that ``HEADER INSERT`` replaces.  Then `headers` makes it, line by line.
What is added is made there, too, so that the quick way can't differ from the other one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lj_services.perlbal.http.head import RequestHead
from lj_services.perlbal.proxy.headers import head_for_node, lines_for_node

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

MOST_CLIENTS: Final = 4096
"""Addresses for which it is remembered what is added."""


class PlainHeads:
    """Heads for the nodes of one service.

    Args:
        service: whose rules count.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._added: dict[str, bytes] = {}
        self._inserted: frozenset[bytes]
        self.changed()

    def changed(self) -> None:
        """The service adds something else from now on."""
        self._added.clear()
        self._inserted = frozenset(name.lower() for name, _ in self._service.insert)

    def head(self, request: RequestHead, client: ClientConnection) -> bytes | None:
        """A request's head for a node; None if it must be made line by line."""
        kept = request.kept
        service = self._service
        if kept is None or service.remove or service.hooks.by_point:
            return None
        if self._inserted and not self._inserted.isdisjoint(request.fields):
            return None
        added = self._added.get(client.peer)
        if added is None:
            added = self._add(client)
        return b"%b %b HTTP/1.1\r\n%b%b" % (request.method, request.target, kept, added)

    def _add(self, client: ClientConnection) -> bytes:
        """What is added to the fields of each request of a client, and the empty line."""
        nothing = RequestHead(b"GET", b"/", 1)
        lines = lines_for_node(client, nothing, self._service)
        persist = self._service.parameters.persist_backend
        added = head_for_node(nothing, lines, persist=persist, body=None).partition(b"\r\n")[2]
        if len(self._added) >= MOST_CLIENTS:
            self._added.clear()
        self._added[client.peer] = added
        return added
