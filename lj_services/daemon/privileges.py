"""Giving up root: bind low ports and read keys first, then be an ordinary user for good.

Source: setgroups(2), setgid(2), setuid(2): groups first, as the user may not change them.
"""

from __future__ import annotations

import grp
import logging
import os
import pwd

from lj_services.daemon.config import ConfigError

log = logging.getLogger(__name__)


def drop_privileges(user: str, group: str = "") -> bool:
    """Become `user` in all of this process; what is open stays open.

    Args:
        user: a name, or a number; empty: nothing is done.
        group: the same; empty: the user's own groups.

    Returns:
        whether something was changed; a process that is that user already stays as it is.

    Raises:
        ConfigError: there is no such user or group, or this process may not become it.
    """
    if not user:
        if group:
            raise ConfigError("group: means nothing without user; set both")
        return False
    try:
        entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"user: there is no user {user!r}; create it, or name another") from None
    gid = _group(group) if group else entry.pw_gid
    if (os.geteuid(), os.getegid()) == (entry.pw_uid, gid):
        return False
    if os.geteuid() != 0:
        raise ConfigError(f"user: only root can become {entry.pw_name}; start as root, or unset it")
    if group:
        os.setgroups([gid])
    else:
        os.initgroups(entry.pw_name, gid)
    os.setgid(gid)
    os.setuid(entry.pw_uid)
    if entry.pw_uid != 0:
        _must_be_for_good()
    log.info("privileges dropped", extra={"user": entry.pw_name, "gid": gid})
    return True


def _group(name: str) -> int:
    try:
        entry = grp.getgrgid(int(name)) if name.isdigit() else grp.getgrnam(name)
    except KeyError:
        raise ConfigError(
            f"group: there is no group {name!r}; create it, or name another"
        ) from None
    return entry.gr_gid


def _must_be_for_good() -> None:
    try:
        os.setuid(0)
    except PermissionError:
        return
    raise ConfigError("user: root could be had back; this system does not drop privileges")
