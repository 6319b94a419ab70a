"""What owns connections to nodes: a reverse proxy, or who fetches URLs that nodes have named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lj_services.perlbal.balancer import Balancer
    from lj_services.perlbal.http.head import ResponseHead
    from lj_services.perlbal.parameters import Parameters
    from lj_services.perlbal.proxy.backend import Backend
    from lj_services.perlbal.proxy.exchange import Exchange
    from lj_services.perlbal.proxy.plain import PlainHeads
    from lj_services.perlbal.proxy.progress import Progress
    from lj_services.perlbal.service import Service


class Owner(Protocol):
    """Whose connections these are: it opens them, and decides what each does next."""

    service: Service
    balancer: Balancer
    parameters: Parameters
    generation: int
    progress: Progress
    plain: PlainHeads
    special: bool
    """Whether `take_response` is to be asked."""

    def request_backend(self, exchange: Exchange) -> None:
        """Find a connection for a request."""

    def abandon(self, exchange: Exchange) -> None:
        """The client is gone."""

    def connected(self, backend: Backend) -> None:
        """The connection has been made."""

    def connect_failed(self, backend: Backend, why: str) -> None:
        """It has not, or nobody is there."""

    def free(self, backend: Backend) -> None:
        """It can take a request."""

    def forget(self, backend: Backend) -> None:
        """It is gone."""

    def spawn(self) -> None:
        """Open others if they are wanted."""

    def take_response(
        self, exchange: Exchange, backend: Backend, response: ResponseHead, rest: bytes
    ) -> bool:
        """Look at a response before it is passed on; whether it is taken care of."""

    def lost(self, exchange: Exchange, backend: Backend) -> None:
        """It has ended before the response began."""

    def garbage(self, exchange: Exchange, backend: Backend, why: str) -> None:
        """The response is none."""

    def ended(self, exchange: Exchange) -> None:
        """The request is through, one way or the other."""
