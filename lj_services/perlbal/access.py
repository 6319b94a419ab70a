"""The access log: a line for each request that a service was asked, off by default.

``SET web.access_log = /var/log/lj/access.log`` writes the combined format that Apache has made
common, ``access_log_format`` chooses ``common`` or ``json``.  Lines are written together, a few
times a second.  A file that was moved away or removed is made anew within 3 seconds, so that
log rotation has nobody to tell; several processes can write the same file.

Where it is off it costs a comparison.  Where it is on, `Counted` stands between a client's
connection and its transport: it sees the status and counts what is sent.

Source: the Common Log Format, https://httpd.apache.org/docs/2.4/logs.html
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from lj_services.perlbal.http.head import RequestHead

FORMATS: Final = ("combined", "common", "json")
CHECK_EVERY_S: Final = 3.0

log = logging.getLogger(__name__)


class AccessLog:
    """One file.

    Args:
        path: of the file; it is appended to.
        form: one of `FORMATS`.
        service: the name, for ``json``.

    Raises:
        OSError: the file can't be written.
    """

    def __init__(self, path: Path, form: str, service: str) -> None:
        self._path = path
        self._form = form
        self._service = service
        self._lines: list[str] = []
        self._checked = 0.0
        self._fd = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def add(self, peer: str, request: RequestHead, counted: Counted, *, whole: bool) -> None:
        """Write a request down.

        Args:
            peer: the client's address.
            request: what was asked; plug-ins may have changed it.
            counted: what came at first, and what was sent.
            whole: whether all of the response was.
        """
        head = request.fields
        method, target = _text(counted.method), _text(counted.target)
        now = time.time()
        if self._form == "json":
            entry = {
                "time": round(now, 3),
                "service": self._service,
                "client": peer,
                "host": _text(request.host),
                "method": method,
                "target": target,
                "version": f"1.{request.minor}",
                "status": counted.status,
                "bytes": counted.sent,
                "seconds": round(time.monotonic() - counted.began, 6),
                "whole": whole,
                "referer": _text(head.get(b"referer", b"")),
                "agent": _text(head.get(b"user-agent", b"")),
            }
            self._lines.append(json.dumps(entry) + "\n")
            return
        when = time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now))
        asked = _quoted(f"{method} {target} HTTP/1.{request.minor}")
        line = f"{peer} - - [{when}] {asked} {counted.status or 499} {counted.sent or '-'}"
        if self._form == "combined":
            referer = _quoted(_text(head.get(b"referer", b"-")))
            line += f" {referer} {_quoted(_text(head.get(b'user-agent', b'-')))}"
        self._lines.append(line + "\n")

    def flush(self, now: float) -> None:
        """Write what there is; look whether the file is still there."""
        try:
            if now - self._checked >= CHECK_EVERY_S:
                self._checked = now
                if not self._in_place():
                    os.close(self._fd)
                    self._fd = self._open()
            if self._lines:
                lines, self._lines = self._lines, []
                os.write(self._fd, "".join(lines).encode())
        except OSError as error:
            log.error("access log %s: %s", self._path, error.strerror)

    def _in_place(self) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Write what is left."""
        self.flush(self._checked)
        os.close(self._fd)


class Counted:
    """A client's transport, seen from its access log.

    Attributes:
        method: of the request as it came; X-REPROXY-SERVICE makes another of it.
        target: likewise.
        status: of the response; 0: none has been sent.
        sent: bytes of its body.
        began: when the request came, in seconds (monotonic).
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.method = self.target = b""
        self.status = 0
        self.sent = 0
        self.began = 0.0

    def begin(self, request: RequestHead) -> None:
        """A request has come."""
        self.method, self.target = request.method, request.target
        self.status = 0
        self.sent = 0
        self.began = time.monotonic()

    def write(self, data: bytes) -> None:
        """Pass it on."""
        self._transport.write(data)
        if self.status:
            self.sent += len(data)
            return
        status = int(data[9:12])
        if status >= 200 or status == 101:
            self.status = status
            self.sent = len(data) - data.index(b"\r\n\r\n") - 4

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _text(value: bytes) -> str:
    return value.decode("ascii", "backslashreplace")


def _quoted(text: str) -> str:
    """As Apache quotes: neither a quotation mark nor a control character ends it."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in plain) + '"'
