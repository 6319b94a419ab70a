"""PUT and DELETE: files from clients, whole or not at all.

What comes is written by a thread to a file beside the one that it will be, and renamed when
all of it is there, is on the disk and has the digest that Content-MD5 told of.  While the
disk is behind, nothing is read from the client.  Until it is whole the file has no name, so that
the system removes it whatever happens; where the file system can't do that, its name starts with
`PREFIX`, and what is left of an upload that was broken off is removed.

Source: Perlbal 1.80; RFC 1864.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lj_services.perlbal.answering import Waiting
from lj_services.perlbal.inflow import NO_ROOM, Inflow, write_all

if TYPE_CHECKING:
    from lj_services.perlbal.frontend import ClientConnection

PREFIX: Final = ".put-"
_NO_UNNAMED: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})


class Upload(Waiting):
    """One PUT; an exchange of the client's.

    Args:
        client: who sends.
        folder: the service's, resolved.
        path: relative to it.
        levels: how many of its folders must be there already.
        md5: what Content-MD5 says, or b"".
    """

    def __init__(
        self, client: ClientConnection, folder: Path, path: str, levels: int, md5: bytes
    ) -> None:
        super().__init__("storing")
        self._client = client
        self._folder = folder
        self._target = folder / path
        self._levels = levels
        self._md5 = md5
        self._inflow = Inflow(client)
        self._task = asyncio.get_running_loop().create_task(self._store())

    def body(self, data: bytes) -> None:
        """A piece: to be written."""
        hooks = self._client.service.hooks
        if "put_writeout" in hooks and hooks.run("put_writeout", self._client, data):
            return
        self._inflow.put(data)

    def body_done(self) -> None:
        """It is whole."""
        self._inflow.end()

    def client_gone(self) -> None:
        """Throw away what has come."""
        self._inflow.stop()

    async def _store(self) -> None:
        thread = asyncio.to_thread
        temporary = self._target.with_name(PREFIX + secrets.token_hex(8))
        file: Any = None
        try:
            if not await thread(self._make_folders):
                self._answer(404, "A folder that must be there is not.")
                return
            file = await thread(_create, temporary)
            digest = hashlib.md5(usedforsecurity=False)

            def write(data: bytes) -> None:
                digest.update(data)
                write_all(file, data)

            await self._inflow.store(write)
            if self._inflow.stopped:
                return
            if self._md5 and base64.b64encode(digest.digest()) != self._md5:
                self._answer(400, "Content-MD5 does not match what has come.")
                return
            new = await thread(_finish, file, temporary, self._target)
            self._answer(201 if new else 200)
        except OSError as error:
            self._answer(507 if error.errno in NO_ROOM else 500, error.strerror or "")
        finally:
            await thread(_clean_up, file, temporary)

    def _make_folders(self) -> bool:
        """Make the folders that may be made; False if one is missing that may not."""
        parents = self._target.parent.relative_to(self._folder).parts
        if self._levels and not (self._folder.joinpath(*parents[: self._levels])).is_dir():
            return False
        if self._levels > len(parents):
            return False
        if not self._inside():  # before a folder is made where a link leads to
            return False
        self._target.parent.mkdir(parents=True, exist_ok=True)
        return self._inside()

    def _inside(self) -> bool:
        """Whether the target's folder, or where it will be, is below the service's."""
        return self._target.parent.resolve().is_relative_to(self._folder)

    def _answer(self, status: int, why: str = "") -> None:
        if not self._inflow.stopped and self._client.exchange is self:
            if status >= 400:
                self._client.error(status, why)
            else:
                self._client.answer(status)


def _create(path: Path) -> Any:
    """A file without a name in the folder of `path`; called so where that can't be."""
    try:
        return os.fdopen(os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o666), "wb", 0)
    except OSError as error:
        if error.errno not in _NO_UNNAMED:
            raise
        return path.open("xb", buffering=0)


def _finish(file: Any, temporary: Path, target: Path) -> bool:
    """Make the file what it is to be; whether there was none before."""
    os.fsync(file.fileno())
    if not temporary.exists():
        # A file that was opened without a name can be given one, but not another's (open(2)).
        unnamed = f"/proc/self/fd/{file.fileno()}"
        os.link(unnamed, temporary, src_dir_fd=file.fileno(), follow_symlinks=True)
    new = not target.exists()
    temporary.rename(target)
    return new


def _clean_up(file: Any, temporary: Path) -> None:
    if file is not None:
        file.close()
    temporary.unlink(missing_ok=True)


def remove(folder: Path, path: str) -> int:
    """Delete a file; returns the status to answer with.  Waits for the disk."""
    target = folder / path
    try:
        if not target.parent.resolve().is_relative_to(folder) or target.is_dir():
            return 403
        target.unlink()
    except FileNotFoundError:
        return 404
    except OSError:
        return 500
    return 204
