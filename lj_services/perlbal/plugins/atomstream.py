"""AtomStream: everything new on the site, as one endless response to everybody who listens.

::

    LOAD atomstream
    LOAD atominject
    CREATE SERVICE updates
      SET role    = selector
      SET listen  = 0.0.0.0:8081
      SET plugins = atomstream
    ENABLE updates
    CREATE SERVICE inject
      SET role    = selector
      SET listen  = 127.0.0.1:8082        # only the site's own programs
      SET plugins = atominject
    ENABLE inject

``GET /atom-stream.xml`` at the first gets ``<atomStream>`` and then, without an end, each
document that was PUT to the second, and ``<time>`` each second.  ``?since=SECONDS`` (since
1970) first gets the newest feeds that are still kept.  A client that reads too slowly is told
``<sorryTooSlow youMissed="N" />``; one that does not read for ``idle_timeout`` is cut off.

Source: Perlbal::Plugin::AtomStream, as Six Apart's update stream used it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from lj_services.perlbal.plugins._atom import LISTENERS, OnTheBus

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

_TARGET = re.compile(rb"/atom-stream\.xml(?:\?(?:.*&)?since=(\d{1,12})(?:&.*)?|\?.*)?", re.DOTALL)


class AtomStream(OnTheBus):
    """The plug-in, for all services."""

    title = "AtomStream"

    def register(self, service: Service) -> None:
        """Look at a service's requests."""
        service.hooks.register(self.name, "start_http_request", _start)


def _start(client: ClientConnection) -> bool:
    request = client.request
    target = _TARGET.fullmatch(request.target)
    if target is None:
        return False
    if request.method not in (b"GET", b"HEAD"):
        client.answer(405, (("Allow", "GET, HEAD"),))
    else:
        LISTENERS.listen(client, None if target[1] is None else int(target[1]))
    return True


plugin = AtomStream()
"""What LOAD takes; each balancer of a process shares it."""
