"""How large and how full the disk under a cluster's data is.

``statvfs`` tells where the server's files are on this host (SQLite, a socket,
loopback), ``information_schema.DISKS`` where MariaDB has that plugin loaded; otherwise
nobody does.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from lj_services.database import Databases, cluster_role

LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True, slots=True)
class Disk:
    """The disk under a cluster's data.

    Attributes:
        total: bytes that may be used on it.
        free: bytes that are left.
        device: names the disk: clusters with the same one share it.
    """

    total: int
    free: int
    device: str


def disk_of(databases: Databases, clusterid: int) -> Disk | None:
    """The disk under a cluster's data; None if nobody tells.

    Raises:
        DatabaseError: the cluster can't be reached.
    """
    server = databases.writer(cluster_role(clusterid))
    if server.is_sqlite:
        with server.connect("read"):
            return local_disk(Path(str(server.url.database)).parent)
    with server.connect("read") as connection:
        folder = Path(str(connection.scalar(text("SELECT @@datadir"))))
        here = "unix_socket" in server.url.query or server.url.host in LOCAL_HOSTS
        if here and (disk := local_disk(folder)) is not None:
            return disk
        try:
            rows = connection.execute(
                text("SELECT Path, Total, Available FROM information_schema.DISKS")
            ).all()
        except DBAPIError:
            return None  # the plugin is not loaded, or this user may not look
    above = [row for row in rows if folder.is_relative_to(str(row.Path))]
    if not above:
        return None
    mount = max(above, key=lambda row: len(str(row.Path)))
    device = f"{server.url.host}:{server.url.port or 3306}:{mount.Path}"
    return Disk(int(mount.Total) << 10, int(mount.Available) << 10, device)


@dataclass(frozen=True, slots=True)
class Data:
    """A cluster's tables and indexes, as the server estimates them.

    Attributes:
        size: bytes that they take.
        reusable: bytes that deleted rows left free in their files: they are not given back to
            the file system, but what comes next goes there.
    """

    size: int
    reusable: int


def data_of(databases: Databases, clusterid: int) -> Data:
    """How much data a cluster has.

    Raises:
        DatabaseError: the cluster can't be reached.
    """
    role = cluster_role(clusterid)
    if databases.writer(role).is_sqlite:
        figures = (
            "SELECT (page_count - freelist_count) * page_size, freelist_count * page_size "
            "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        )
    else:
        figures = (
            "SELECT COALESCE(SUM(data_length + index_length), 0), COALESCE(SUM(data_free), 0) "
            "FROM information_schema.TABLES WHERE table_schema = DATABASE()"
        )
    with databases.read(role) as connection:
        size, reusable = connection.execute(text(figures)).one()
    return Data(int(size), int(reusable))


def local_disk(folder: Path) -> Disk | None:
    """The disk under a folder of this host; None: there is no such folder."""
    try:
        disk = os.statvfs(folder)
        number = folder.stat().st_dev
    except OSError:
        return None
    reserved = disk.f_bfree - disk.f_bavail
    total = (disk.f_blocks - reserved) * disk.f_frsize
    return Disk(total, disk.f_bavail * disk.f_frsize, f"{socket.gethostname()}:{number}")
