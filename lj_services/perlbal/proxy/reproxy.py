"""Internal redirects: a node names a file, URLs or another service, and the client gets that.

==========================  ======================================================
field of a node's response  effect
==========================  ======================================================
X-REPROXY-FILE              the file at this path is sent, by sendfile
X-REPROXY-URL               the first of these URLs (http only) that answers is sent
X-REPROXY-SERVICE           the service of this name answers, as if it were asked by GET
X-REPROXY-EXPECTED-SIZE     a file of another size is 404; a URL's, the next one's turn
X-REPROXY-CACHE-FOR         ``seconds; Field Names``: the URLs are remembered for this
                            long under the request's Host and target, and so are these
                            fields of the response
==========================  ======================================================

The client sees the node's response with the file's or the URL's content (its length, and
what it says about a part).  Only responses are looked at: what a client sends in fields of
these names means nothing.  A node can name any file and any URL unless
``reproxy_prefixes`` says which; a file's own name, links followed, must be below one.

``fetching.py`` fetches URLs, ``reproxy_cache.py`` remembers them.

Source: Perlbal 1.80, doc/reproxying.txt.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
from email.utils import formatdate
from typing import TYPE_CHECKING, Final

from lj_services.perlbal.answering import Waiting
from lj_services.perlbal.http.head import ResponseHead
from lj_services.perlbal.http.mime import type_of
from lj_services.perlbal.nodes import Address
from lj_services.perlbal.proxy.exchange import Exchange
from lj_services.perlbal.proxy.headers import head_for_client
from lj_services.perlbal.proxy.reproxy_cache import Cached, Url
from lj_services.perlbal.web.paths import Outside, relative_path
from lj_services.perlbal.web.ranges import Unsatisfiable, part_of, unchanged, wanted_part
from lj_services.perlbal.web.sending import FileSender

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection
    from lj_services.perlbal.proxy.role import ProxyRole

MOST_HOPS: Final = 8
"""Services that one request may be handed to."""
FIELDS: Final = (
    b"x-reproxy-file",
    b"x-reproxy-url",
    b"x-reproxy-service",
    b"x-reproxy-expected-size",
    b"x-reproxy-cache-for",
)
_URL = re.compile(rb"http://([\w.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?(/[!-~]*)?")
_CACHE_FOR = re.compile(rb"(\d{1,9})(?:\s*;\s*(.*))?")

log = logging.getLogger(__name__)


def wanted(response: ResponseHead) -> bool:
    """Whether a response names something else."""
    fields = response.fields
    return (
        b"x-reproxy-file" in fields or b"x-reproxy-url" in fields or b"x-reproxy-service" in fields
    )


def take(role: ProxyRole, exchange: Exchange, response: ResponseHead) -> None:
    """Answer with what a response names; the node's connection is not needed any more."""
    fields = response.fields
    client = exchange.client
    expected = fields.get(b"x-reproxy-expected-size", b"")
    size = int(expected) if re.fullmatch(rb"\d{1,18}", expected) else None
    service = fields.get(b"x-reproxy-service")
    file = fields.get(b"x-reproxy-file")
    urls = fields.get(b"x-reproxy-url", b"")
    cache_for = _CACHE_FOR.fullmatch(fields.get(b"x-reproxy-cache-for", b""))
    for name in FIELDS:
        response.remove(name)
    if service is not None or file is not None:
        role.ended(exchange)
    if service is not None:
        _hand_over(role, client, service)
    elif file is not None:
        _send_file(role, client, response, os.fsdecode(file), size)
    else:
        found = _urls(role, urls)
        if not found:
            log.warning("X-REPROXY-URL names no URL that may be used", extra={"urls": urls})
        if cache_for is not None and role.cache.most and found:
            role.cache.put(exchange.request, _remembered(role, response, found, size, cache_for))
        exchange.drop_spool()
        client.drop_body()
        role.reproxier.fetch(client, response, found, size)


def from_cache(role: ProxyRole, client: ClientConnection) -> bool:
    """Answer from what is remembered; False if nothing is."""
    request = client.request
    if request.method not in (b"GET", b"HEAD") or request.length:
        return False
    entry = role.cache.get(request, role.balancer.now)
    if entry is None:
        return False
    response = ResponseHead(1, 200, b"OK")
    for line in entry.fields:
        name, _, value = line.partition(b":")
        response.set(name, value.strip(b" \t"))
    since = request.fields.get(b"if-modified-since")
    if b"if-none-match" in request.fields:
        since = None
    if since is not None and since.partition(b";")[0].strip() == entry.modified:
        client.answer(304)
    else:
        role.reproxier.fetch(client, response, list(entry.urls), entry.size, cached=True)
    return True


def _remembered(
    role: ProxyRole,
    response: ResponseHead,
    urls: list[Url],
    size: int | None,
    cache_for: re.Match[bytes],
) -> Cached:
    names = {name.lower() for name in re.split(rb"[\s,]+", cache_for[2] or b"") if name}
    lines = [line for line in response.kept_lines() if line.partition(b":")[0].lower() in names]
    modified = response.fields.get(b"last-modified", b"") if b"last-modified" in names else b""
    expires = role.balancer.now + int(cache_for[1])
    return Cached(tuple(urls), tuple(lines), modified, size, expires)


def _urls(role: ProxyRole, text: bytes) -> list[Url]:
    """The URLs that are some and may be used."""
    prefixes = role.parameters.reproxy_prefixes
    found = []
    for word in text.split():
        match = _URL.fullmatch(word)
        shown = word.decode("latin-1")
        if match is None or int(match[2] or 80) > 65535:
            continue
        if prefixes and not _below(prefixes, shown, match[3] or b"/"):
            continue
        host = match[1].decode().strip("[]")
        found.append(Url(Address(host, int(match[2] or 80)), match[3] or b"/", shown))
    return found


def _below(prefixes: tuple[str, ...], url: str, path: bytes) -> bool:
    """Whether a URL with this path is below one of the prefixes."""
    try:
        relative_path(path)
    except Outside:  # a server could take ``..``, however it is written, for the folder above
        return False
    # A prefix ends in a slash or at one, so that no other host begins like it.
    return any(url.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)


# -- other services -----------------------------------------------------------------


def _hand_over(role: ProxyRole, client: ClientConnection, name: bytes) -> None:
    service = role.balancer.services.get(name.decode("latin-1").lower())
    client.exchange = None
    if service is None or client.hops >= MOST_HOPS:
        why = "no service" if service is None else "too many services in a row"
        log.warning("X-REPROXY-SERVICE: %s", why, extra={"name": name})
        client.error(503)
        return
    client.hops += 1
    request = client.request
    if request.length:
        # Its body has gone to the node; what is named now is fetched.
        request.method = b"HEAD" if request.method == b"HEAD" else b"GET"
        client.drop_body()
    client.hand_over(service)


# -- files --------------------------------------------------------------------------


def _send_file(
    role: ProxyRole,
    client: ClientConnection,
    response: ResponseHead,
    path: str,
    size: int | None,
) -> None:
    hooks = role.service.hooks
    if "start_file_reproxy" in hooks and hooks.run("start_file_reproxy", client, path):
        return
    client.exchange = waiting = Waiting("opening a file")
    loop = asyncio.get_running_loop()
    prefixes = role.parameters.reproxy_prefixes

    def done(future: asyncio.Future[tuple[int, os.stat_result]]) -> None:
        error = future.exception()
        if client.exchange is not waiting:
            if error is None:
                os.close(future.result()[0])
            return
        client.exchange = None
        if error is not None:
            log.info("X-REPROXY-FILE: %s", error, extra={"path": path})
            client.error(404)
            return
        fd, status = future.result()
        if not status.st_size or size not in (None, status.st_size):
            os.close(fd)
            client.error(404)
            return
        _send_open_file(client, response, path, fd, status)

    loop.run_in_executor(None, _open, path, prefixes).add_done_callback(done)


def _open(path: str, prefixes: tuple[str, ...]) -> tuple[int, os.stat_result]:
    """Open a file that may be sent; waits for the disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError("it is no file")
        if prefixes:
            real = os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115  # a string is wanted
            if not any(real.startswith(prefix.rstrip("/") + "/") for prefix in prefixes):
                raise PermissionError("it is not below reproxy_prefixes")
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def _send_open_file(
    client: ClientConnection,
    response: ResponseHead,
    path: str,
    fd: int,
    status: os.stat_result,
) -> None:
    request = client.request
    modified = formatdate(int(status.st_mtime), usegmt=True).encode()
    if b"last-modified" not in response.fields:
        response.set(b"Last-Modified", modified)
    if b"content-type" not in response.fields:
        response.set(b"Content-Type", type_of(path).encode())
    response.set(b"Accept-Ranges", b"bytes")
    response.remove(b"content-length")
    first, size = 0, status.st_size
    if response.status == 204:
        response.status, response.reason = 200, b"OK"
    since = request.fields.get(b"if-modified-since")
    if (
        response.status == 200
        and since is not None
        and b"if-none-match" not in request.fields  # that counts instead: to the node
        and unchanged(since, int(status.st_mtime), response.fields[b"last-modified"])
    ):
        os.close(fd)
        response.status, response.reason, response.length = 304, b"Not Modified", 0
        client.transport.write(head_for_client(response, request, keep_alive=client.keep_alive))
        client.done()
        return
    wanted = wanted_part(request.fields, response.fields)
    if response.status == 200 and wanted is not None:
        try:
            part = part_of(wanted, size)
        except Unsatisfiable:
            os.close(fd)
            client.answer(416, (("Content-Range", f"bytes */{size}"),))
            return
        if part is not None:
            first, length = part
            span = (first, first + length - 1, size)
            response.set(b"Content-Range", b"bytes %d-%d/%d" % span)
            response.status, response.reason = 206, b"Partial Content"
            size = length
    response.set(b"Content-Length", b"%d" % size)
    response.length = size
    if not client.body_complete:
        client.keep_alive = False
    head = head_for_client(response, request, keep_alive=client.keep_alive)
    if request.method == b"HEAD":
        os.close(fd)
        client.transport.write(head)
        client.done()
    else:
        FileSender(client, fd, first, size, lambda _whole: _sent(client)).start(head)


def _sent(client: ClientConnection) -> None:
    """A file that was named has been sent, or nobody wants more of it."""
    hooks = client.service.hooks
    if "reproxy_fh_finished" in hooks:
        hooks.run_all("reproxy_fh_finished", client)
