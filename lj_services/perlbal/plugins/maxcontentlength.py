"""MaxContentLength: refuses requests with long bodies before anything is done with them.

::

    LOAD maxcontentlength
    SET web.plugins            = maxcontentlength
    SET web.max_content_length = 100000

The answer is 413.  Bodies in chunks do not say how long they are; ``max_chunked_request_size``
bounds them.

Source: Perlbal::Plugin::MaxContentLength of Perlbal 1.80.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lj_services.perlbal.plugin import Plugin
from lj_services.perlbal.tunables import Tunable
from lj_services.perlbal.values import SIZE

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service


class MaxContentLength(Plugin):
    """The plug-in, for all services."""

    title = "MaxContentLength"

    def __init__(self) -> None:
        super().__init__()
        self.tunables = (
            Tunable("max_content_length", SIZE, 0, "the longest body; 0: any", unit="bytes"),
        )

    def register(self, service: Service) -> None:
        """Look at a service's requests."""
        service.hooks.register(self.name, "start_http_request", _start)


def _start(client: ClientConnection) -> bool:
    limit = client.service.parameters["max_content_length"]
    if not limit or client.request.length <= limit:
        return False
    client.error(413, f"At most {limit} bytes are taken.")
    return True


plugin = MaxContentLength()
"""What LOAD takes; each balancer of a process shares it."""
