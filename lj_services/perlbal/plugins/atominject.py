"""AtomInject: takes what AtomStream sends (see there).

Every PUT to a service that uses it is a document: well-formed XML in UTF-8 without a document
type, of at most 1 MiB.  It is answered 200 once it is on its way to all listeners, those of
other processes (``--workers``) included, and will be there before what is PUT later; 400 says
what is wrong with it.  Let only the site's own programs reach the service.

Source: Perlbal::Plugin::AtomInject.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lj_services.perlbal.bus import Said
from lj_services.perlbal.plugins._atom import KEPT, TOPIC, OnTheBus, element

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

LARGEST: Final = 1 << 20


class Injection:
    """A document that is coming in; its client's exchange."""

    has_file = False
    responded = False

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        self._pieces: list[bytes] = []
        self._size = 0

    def body(self, data: bytes) -> None:
        """A piece of the document."""
        self._size += len(data)
        if self._size > LARGEST:
            self._client.error(413, f"At most {LARGEST} bytes are taken.")
        else:
            self._pieces.append(data)

    def body_done(self) -> None:
        """All of it is there."""
        try:
            feed = element(b"".join(self._pieces)).decode()
        except ValueError as error:
            self._client.error(400, f"It can't be sent: {error}.")
            return
        self._client.balancer.bus.say(Said(TOPIC, feed, keep=KEPT, heard=self._sent))

    def _sent(self) -> None:
        """It is on its way to all listeners."""
        if self._client.exchange is self:
            self._client.answer(200)

    def client_full(self) -> None:
        """Nothing is being sent."""

    def client_ready(self) -> None:
        """Nothing is being sent."""

    def client_gone(self) -> None:
        """A part of a document is none."""

    def describe(self) -> str:
        """A few words for the console."""
        return "; atom inject"


class AtomInject(OnTheBus):
    """The plug-in, for all services."""

    title = "AtomInject"

    def register(self, service: Service) -> None:
        """Take a service's PUT requests."""
        service.hooks.register(self.name, "start_http_request", _start)


def _start(client: ClientConnection) -> bool:
    request = client.request
    if request.method != b"PUT":
        return False
    if request.length > LARGEST:
        client.error(413, f"At most {LARGEST} bytes are taken.")
        return True
    client.exchange = injection = Injection(client)
    if client.body_complete:
        injection.body_done()
    return True


plugin = AtomInject()
"""What LOAD takes; each balancer of a process shares it."""
