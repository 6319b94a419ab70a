"""Palimg: images in the colours that the address says.

::

    LOAD palimg
    CREATE SERVICE files
      SET role    = web_server
      SET docroot = /var/www
      SET listen  = 80
      SET plugins = palimg
    ENABLE files

``/palimg/rounded/top.gif/pt3366cc`` is the file ``/palimg/rounded/top.gif`` of the docroot,
tinted; see `_palette` for what else may stand behind ``/p``.  GIF and paletted PNG only;
anything else is 404.  Only the palette is rewritten; the rest is sent as every file is.

Source: Perlbal::Plugin::Palimg of Perlbal 1.80.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.plugin import Plugin
from lj_services.perlbal.plugins import _palette
from lj_services.perlbal.web import documents
from lj_services.perlbal.web.documents import Document
from lj_services.perlbal.web.paths import Outside, open_below, relative_path
from lj_services.perlbal.web.role import WebServerRole

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.service import Service

_TARGET = re.compile(rb"(/palimg/[^?]+\.(gif|png))/p([^/?]+)(?:\?.*)?", re.DOTALL)


class Palimg(Plugin):
    """The plug-in, for all services."""

    title = "Palimg"

    def register(self, service: Service) -> None:
        """Look at a web server's requests.

        Raises:
            CommandError: it is none.
        """
        if not isinstance(service.role, WebServerRole):
            raise CommandError("Palimg works on a service with the role web_server")
        service.hooks.register(self.name, "start_web_request", _start)


def _start(client: ClientConnection) -> bool:
    request = client.request
    target = _TARGET.fullmatch(request.target)
    if target is None or request.method not in (b"GET", b"HEAD"):
        return False
    role = cast(WebServerRole, client.service.role)
    try:
        path = relative_path(target[1])
        how = _palette.change(target[3].decode("latin-1"))
    except (Outside, _palette.CantChange):
        client.error(404)
        return True
    folder, kind = role.folder, target[2].decode()
    role.in_thread(
        client, lambda: recoloured(folder, path, kind, how), lambda image: role.send(client, image)
    )
    return True


def recoloured(folder: Path, path: str, kind: str, how: _palette.Change) -> Document:
    """An image with another palette; may wait for the disk.

    Args:
        folder: resolved.
        path: of the image, relative to it.
        kind: ``gif`` or ``png``.
        how: what is done to its palette.

    Raises:
        Outside: it is not below `folder`.
        FileNotFoundError: there is none, or it has no palette.
    """
    image = documents.read(folder, path)
    if image.folder:
        raise FileNotFoundError(path)
    fd = open_below(folder, path)
    try:
        start = os.pread(fd, _palette.LONGEST_START, 0)
    finally:
        os.close(fd)
    try:
        start = _palette.changed_start(start, kind, how)
    except _palette.CantChange:
        raise FileNotFoundError(path) from None
    if image.content is not None:
        image.content = start + image.content[len(start) :]
    else:
        image.start = start
    return image


plugin = Palimg()
"""What LOAD takes; each balancer of a process shares it."""
