"""The role ``web_server``: which file a request is for, and how it is answered.

What is known already (`documents`) is answered at once; what has to be looked up is looked
up in a thread, as the disk may be slow.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from lj_services.perlbal.answering import Waiting
from lj_services.perlbal.http.answers import SERVER, connection_field, date_field
from lj_services.perlbal.http.head import ResponseHead
from lj_services.perlbal.service import BaseRole, Service
from lj_services.perlbal.web import concat, documents, listing, storing
from lj_services.perlbal.web.documents import Document, Documents
from lj_services.perlbal.web.paths import Outside, open_below, relative_path
from lj_services.perlbal.web.ranges import Unsatisfiable, part_of, unchanged
from lj_services.perlbal.web.sending import FileSender

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection

T = TypeVar("T")
log = logging.getLogger(__name__)


class WebServerRole(BaseRole):
    """A service that answers with files of its ``docroot``.

    Attributes:
        folder: the docroot, resolved.
    """

    def __init__(self, service: Service) -> None:
        super().__init__(service)
        self.parameters = service.parameters
        self._documents = Documents()
        self.folder = Path("/nonexistent")

    def check(self) -> None:
        """Say that there are no files without a folder: plug-ins may answer all the same."""
        if self.parameters.docroot is None:
            name = self.service.name
            log.warning("no files are served: SET %s.docroot = ...", name)

    def changed(self, key: str) -> None:
        """Forget what was in another folder."""
        if key in ("docroot", "index_files") and self.parameters.docroot is not None:
            self.folder = self.parameters.docroot.resolve()
            self._documents.clear()

    def describe(self) -> list[str]:
        """Where the files are."""
        return [f"        docroot: {self.parameters.docroot}"]

    # -- requests -----------------------------------------------------------------

    def start(self, client: ClientConnection) -> None:
        """Answer a request, or begin to."""
        client.kind = "Perlbal::ClientHTTP"
        hooks = self.service.hooks
        if "start_web_request" in hooks and hooks.run("start_web_request", client):
            return
        if self.parameters.docroot is None:
            client.error(404)
            return
        request = client.request
        method = request.method
        if method == b"GET" or method == b"HEAD":
            if "start_serve_request" in hooks and hooks.run("start_serve_request", client):
                return
            document = self._documents.get(request.target)
            if document is not None:
                self.send(client, document)
            else:
                self._look_up(client)
        elif method == b"PUT" and self.parameters.enable_put:
            self._put(client)
        elif method == b"DELETE" and self.parameters.enable_delete:
            self._delete(client)
        else:
            client.answer(405, (("Allow", self._allowed()),))

    def _allowed(self) -> str:
        more = ["PUT"] if self.parameters.enable_put else []
        more += ["DELETE"] if self.parameters.enable_delete else []
        return ", ".join(["GET", "HEAD", *more])

    def _look_up(self, client: ClientConnection) -> None:
        target = client.request.target
        if b"??" in target and self.parameters.enable_concatenate_get:
            self._concatenate(client)
            return
        try:
            path = relative_path(target)
        except Outside:
            client.error(403)
            return
        names = self.parameters.index_files if path.endswith("/") or not path else ()
        folder = self.folder

        def look() -> Document:
            document = documents.read(folder, path)
            for name in names if document.folder else ():
                try:
                    return documents.read(folder, path + name)
                except FileNotFoundError:
                    continue
            return document

        def then(document: Document) -> None:
            if document.folder:
                self._send_folder(client, path, document)
            else:
                self._documents.keep(target, document)
                self.send(client, document)

        self.in_thread(client, look, then)

    def send(self, client: ClientConnection, document: Document) -> None:
        """Send a file, or the part of it that the client wants."""
        hooks = self.service.hooks
        if "static_get_poststat_pre_send" in hooks and hooks.run(
            "static_get_poststat_pre_send", client, document.modified
        ):
            return
        request = client.request
        fields = request.fields
        since = fields.get(b"if-modified-since")
        if since is not None and unchanged(since, document.modified, document.shown):
            self._send_head(client, b"304 Not Modified", document.fields, None)
            client.done()
            return
        first, size = 0, document.size
        status = b"200 OK"
        more = document.fields
        wanted = fields.get(b"range")
        if wanted is not None and fields.get(b"if-range", document.shown) == document.shown:
            try:
                part = part_of(wanted, size)
            except Unsatisfiable:
                client.answer(416, (("Content-Range", f"bytes */{size}"),))
                return
            if part is not None:
                first, size = part
                status = b"206 Partial Content"
                span = (first, first + size - 1, document.size)
                more += b"Content-Range: bytes %d-%d/%d\r\n" % span
        if request.method == b"HEAD":
            self._send_head(client, status, more, size)
            client.done()
        elif "start_send_file" in hooks and hooks.run("start_send_file", client):
            return
        elif document.content is not None:
            content = document.content
            part_content = content if size == len(content) else content[first : first + size]
            self._send_head(client, status, more, size, part_content)
            client.done()
        else:
            self._send_file(client, document, status, more, first, size)

    def _send_file(
        self,
        client: ClientConnection,
        document: Document,
        status: bytes,
        fields: bytes,
        first: int,
        size: int,
    ) -> None:
        try:
            # What has just been looked at is in the system's memory: this does not wait.
            fd = open_below(self.folder, document.path)
        except (OSError, Outside):
            client.error(404)
            return
        if os.fstat(fd).st_size != document.size:
            os.close(fd)
            client.error(503, "The file is being written.")
            return
        head = self._head(client, status, fields, size)
        start = document.start[first : first + size]
        FileSender(client, fd, first + len(start), size - len(start)).start(head + start)

    def _head(
        self, client: ClientConnection, status: bytes, fields: bytes, size: int | None
    ) -> bytes:
        if not client.body_complete:
            client.keep_alive = False
        hooks = self.service.hooks
        if "modify_response_headers" in hooks:
            response = ResponseHead(1, int(status[:3]), status[4:])
            for line in fields.splitlines():
                name, _, value = line.partition(b": ")
                response.set(name, value)
            hooks.run_all("modify_response_headers", client, response)
            status = b"%d %b" % (response.status, response.reason)
            fields = response.kept_block()
        return b"HTTP/1.1 %b\r\n%b%b%b%b%b" % (
            status,
            date_field(),
            SERVER if self.parameters.server_tokens else b"",
            fields,
            b"" if size is None else b"Content-Length: %d\r\n" % size,
            connection_field(client.keep_alive, client.request.minor),
        )

    def _send_head(
        self,
        client: ClientConnection,
        status: bytes,
        fields: bytes,
        size: int | None,
        content: bytes = b"",
    ) -> None:
        client.transport.write(self._head(client, status, fields, size) + content)

    # -- folders ------------------------------------------------------------------

    def _send_folder(self, client: ClientConnection, path: str, document: Document) -> None:
        if path and not path.endswith("/"):
            place = "/" + quote(path, errors="surrogateescape") + "/"
            query = client.request.target.partition(b"?")
            client.answer(301, (("Location", place + (query[1] + query[2]).decode("latin-1")),))
        elif not self.parameters.dirindexing:
            client.error(403, "Directory listing disabled.")
        else:
            kind = ("Content-Type", "text/html; charset=utf-8")
            self.in_thread(
                client,
                lambda: listing.page(document.path, "/" + path),
                lambda page: client.answer(200, (kind,), page),
            )

    def _concatenate(self, client: ClientConnection) -> None:
        try:
            names = concat.names(client.request.target)
        except concat.BadConcat as error:
            client.error(400, str(error))
            return
        except Outside:
            client.error(403)
            return

        def then(several: concat.Several) -> None:
            hooks = self.service.hooks
            if "concat_get_poststat_pre_send" in hooks and hooks.run(
                "concat_get_poststat_pre_send", client, several.newest
            ):
                return
            shown = formatdate(several.newest, usegmt=True)
            since = client.request.fields.get(b"if-modified-since")
            fields = (("Content-Type", several.kind), ("Last-Modified", shown))
            if since is not None and unchanged(since, several.newest, shown.encode()):
                client.answer(304, fields)
            elif several.content is not None:
                client.answer(200, fields, several.content)
            else:
                self._send_several(client, several, fields)

        missing = "concat_get_poststat_file_missing"
        self.in_thread(client, lambda: concat.look(self.folder, names), then, missing)

    def _send_several(
        self, client: ClientConnection, several: concat.Several, fields: tuple[tuple[str, str], ...]
    ) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields).encode()
        head = self._head(client, b"200 OK", lines, several.size)
        if client.request.method == b"HEAD":
            client.transport.write(head)
            client.done()
        else:
            concat.Sender(client, self.folder, several).start(head)

    # -- PUT and DELETE -----------------------------------------------------------

    def _put(self, client: ClientConnection) -> None:
        hooks = self.service.hooks
        if "handle_put" in hooks and hooks.run("handle_put", client):
            return
        path = self._stored_path(client)
        if path is None:
            return
        length = client.request.length
        limit = self.parameters.max_put_size
        if client.request.minor and length == 0 and b"content-length" not in client.request.fields:
            client.error(411, "Say how long it is.")
        elif limit and length > limit:
            client.error(413)
        else:
            md5 = client.request.fields.get(b"content-md5", b"")
            client.exchange = upload = storing.Upload(
                client,
                self.folder,
                path,
                self.parameters.min_put_directory,
                md5 if self.parameters.enable_md5 else b"",
            )
            if client.body_complete:
                upload.body_done()

    def _delete(self, client: ClientConnection) -> None:
        path = self._stored_path(client)
        if path is not None:
            self.in_thread(
                client,
                lambda: storing.remove(self.folder, path),
                lambda status: client.error(status) if status >= 400 else client.answer(status),
            )

    def _stored_path(self, client: ClientConnection) -> str | None:
        """The path of a file that may be stored; None: the client has been told why not."""
        try:
            path = relative_path(client.request.target)
        except Outside:
            client.error(403)
            return None
        name = path.rpartition("/")[2]
        if not name or name.startswith(storing.PREFIX):
            client.error(403, "This is no name of a file.")
            return None
        return path

    # -- threads ------------------------------------------------------------------

    def in_thread(
        self,
        client: ClientConnection,
        work: Callable[[], T],
        then: Callable[[T], Any],
        missing: str = "static_get_poststat_file_missing",
    ) -> None:
        """Do what may wait for the disk, and go on with what came of it.

        Args:
            client: who waits for it.
            work: is done in a thread.
            then: is given what came of it.
            missing: the hook point for a file that is not there.
        """
        client.exchange = waiting = Waiting("looking up")
        future = asyncio.get_running_loop().run_in_executor(None, work)

        def done(future: asyncio.Future[T]) -> None:
            if client.exchange is not waiting:
                future.exception()
                return
            client.exchange = None
            try:
                result = future.result()
            except (FileNotFoundError, NotADirectoryError):
                self._missing(client, missing)
            except (PermissionError, Outside):
                client.error(403)
            except OSError as error:
                client.error(404 if error.errno in (36, 40) else 500)
            else:
                then(result)

        future.add_done_callback(done)

    def _missing(self, client: ClientConnection, point: str) -> None:
        hooks = self.service.hooks
        if point not in hooks or not hooks.run(point, client):
            client.error(404)
