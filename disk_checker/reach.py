"""Whether what a run wrote to is there after the cut, and is the same disk and file system.

Names change with a boot: a verdict on another disk, or on another file system that was mounted
in the place, would accuse an honest one.  So whatever can be known of them is compared with
what the run noted; only a target that is certainly the run's own can be "missing" or
"unmountable".
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from disk_checker import host, hostfacts
from disk_checker.errors import TargetError
from disk_checker.ledger import run_name
from disk_checker.plan import Mount, Plan
from disk_checker.result import Result

_NOT_THE_DISKS = ("unknown filesystem type", "already mounted", "busy", "permission denied")
"""What `mount` says for reasons that prove nothing about the disk."""


def reachable(path: Path, plan: Plan, device: str, result: Result) -> bool:
    """Whether there is something to read; else the result says what is gone.

    :param path: where to look, absolute and without symbolic links.
    :param device: where the file system is now, if its device's name changed.
    :raises TargetError: it is not what the run wrote to, or nobody can know.
    """
    mount = plan.mount
    if (
        mount is not None
        and path.is_relative_to(mount.point)
        and not _mounted(mount, device, result)
    ):
        return False
    if plan.kind != "device":
        _compare_file_system(path, plan)
    if path.exists():
        if plan.kind == "device":
            _compare_device(path, plan)
        if plan.inode and path.stat().st_ino != plan.inode:
            result.remarks.append(
                f"{path} is not the file that the run wrote (its inode is another): was it copied, "
                "restored or made anew?  What is lost in it then is not the disk's fault"
            )
        return True
    if plan.kind == "device":
        now = next((link for link in _lasting(plan.facts) if Path(link).exists()), "")
        raise TargetError(
            f"{path} is not there: the disk did not come back, or has another name now "
            f"(then: verify HOST:PORT {now or 'NAME'} --run {run_name(result.run)})"
        )
    if (plan.machine, plan.target) != (host.machine(), str(path)):
        raise TargetError(
            f"{path} is not there; run {run_name(result.run)} wrote to {plan.target} of "
            f"{plan.hostname}: give the path that its {plan.kind} has now."
        )
    if result.totals.acked == 0:
        raise TargetError(
            f"{path} is not there, and no write to it was ever acknowledged: begin a new run."
        )
    result.gone = "missing"
    result.gone_text = f"the {plan.kind} itself is missing, with everything in it"
    return False


def _compare_device(path: Path, plan: Plan) -> None:
    """Compare a disk with the run's, by names that no boot changes.

    :raises TargetError: it is another one.
    """
    wrote = _lasting(plan.facts)
    now = [link for link in hostfacts.links_to(path.resolve().name) if _is_lasting(link)]
    if wrote and now and not set(wrote) & set(now):
        where = Path(wrote[0])
        raise TargetError(
            f"{path} is now another disk ({now[0]}) than the run wrote to ({where}): "
            + (f"that is {where.resolve()}." if where.exists() else "that is not here.")
        )


def _compare_file_system(path: Path, plan: Plan) -> None:
    """Compare the file system that a path lies on, or would lie on, with the run's.

    :raises TargetError: it is another one.
    """
    mounted = host.mount_of(path)
    if plan.mount is None or mounted is None or not plan.mount.uuid or not mounted.uuid:
        return
    if mounted.uuid != plan.mount.uuid:
        raise TargetError(
            f"{path} is on another file system now ({mounted.source}, UUID {mounted.uuid}) than "
            f"the run wrote to (UUID {plan.mount.uuid}): mount that one at {plan.mount.point}; "
            f"`blkid -U {plan.mount.uuid}` says where it is."
        )


def _is_lasting(link: str) -> bool:
    return "/disk/by-id/" in link


def _lasting(facts: dict[str, Any]) -> list[str]:
    """Names of the device of a run that no boot changes."""
    layers = facts.get("layers")
    first = layers[0] if isinstance(layers, list) and layers else {}
    links = first.get("links") if isinstance(first, dict) else None
    return [str(link) for link in links or [] if _is_lasting(str(link))]


def _has_medium(device: Path) -> bool:
    """Whether a device is there, and not only a name that it left."""
    try:
        if device.is_block_device():
            return host.device_size(device) > 0
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM)
    return device.exists()


def _mounted(mount: Mount, device: str, result: Result) -> bool:
    """Mount the file system if it is not; False when it no longer mounts."""
    if mount.point == "/" or any(now.point == mount.point for _, now in host.mounts()):
        return True
    source = device
    if not source and mount.uuid:
        code, found = host.run_tool("blkid", "-c", "/dev/null", "-U", mount.uuid)
        source = found if code == 0 else ""
    source = source or mount.source
    if not _has_medium(Path(source)):
        raise TargetError(
            f"{mount.point} is not mounted and its device {source} is not there: did the disk "
            "come back?  If it has another name now, say --device NAME."
        )
    held = host.uuid_of(source)
    if mount.uuid and held and held != mount.uuid:
        raise TargetError(
            f"{mount.point} is not mounted, and {source} holds another file system (UUID {held}) "
            f"than the run wrote to (UUID {mount.uuid}): did the disk come back?  If it has "
            "another name now, say --device NAME."
        )
    by_hand = f"mount {source} on {mount.point} and verify again"
    if os.geteuid() != 0:
        raise TargetError(f"{mount.point} is not mounted, which only root may do: {by_hand}.")
    if not Path(mount.point).is_dir():
        raise TargetError(
            f"{mount.point}, where the file system was mounted, is no folder here: make it, or "
            f"mount {source} elsewhere and verify that path with --run {run_name(result.run)}."
        )
    code, said = host.run_tool("mount", "-t", mount.type, source, mount.point, timeout_s=600)
    if code == 0:
        result.remarks.append(f"{source} was not mounted; mounted it on {mount.point}")
        return True
    said = " ".join(said.split())
    if code == 127 or any(words in said for words in _NOT_THE_DISKS):
        raise TargetError(f"{source} could not be mounted ({said}): {by_hand}.")
    result.gone = "unmountable"
    result.gone_text = f"the {mount.type} on {source} no longer mounts ({said})"
    return False
