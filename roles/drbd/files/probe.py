"""Look at what DRBD is going to stand on; run on the host by the role drbd, changes nothing.

``probe.py JSON`` with disk, address and resource.  Prints JSON: problems, each as a sentence
that says what to do, and the size of the disk in bytes.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

RESOURCES = Path("/etc/drbd.d")


def output_of(*words):
    """What a program printed, or None where it failed or is not there."""
    try:
        run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout if run.returncode == 0 else None


def check_module():
    if Path("/sys/module/drbd").exists():
        return
    if output_of("/sbin/modinfo", "drbd") is None:
        yield (
            f"kernel {os.uname().release} has no module drbd: install the kernel image of the "
            "distribution (Debian: linux-image-amd64), or dkms with drbd-dkms, and boot it"
        )


def check_disk(disk, resource):
    """Problems with the disk; one that this resource has already is no problem.

    It is this resource's where the kernel says so, or where the description on this host names
    it and DRBD's metadata is on it.  A description alone tells what was meant, not what is there.
    """
    if not Path(disk).exists():
        yield f"drbd_disk {disk} is not there: name a disk of this host, see /dev/disk/by-id"
        return
    listed = output_of("/sbin/wipefs", "--json", disk)
    if listed is None:
        yield f"drbd_disk {disk} is no disk that can be read: name a whole, unused disk"
        return
    found = {each["type"] for each in json.loads(listed or "{}").get("signatures", [])}
    used, described = used_by(resource), described_for(resource)
    if used and not same(used, disk):
        yield (
            f"drbd_disk is {disk}, but {resource} uses {used}: if that one is to be replaced, "
            f"let it go first (`drbdadm detach {resource}` on this host), else name that one"
        )
    ours = same(used, disk) or (same(described, disk) and "drbd" in found)
    if found and not ours:
        why = why_not(described, disk, resource)
        yield (
            f"drbd_disk {disk} holds {', '.join(sorted(found))}{why}: "
            f"if nothing on it is needed, empty it by hand with `wipefs --all {disk}`, "
            "else name another disk"
        )
    mounted = (line.split()[0] for line in Path("/proc/mounts").read_text().splitlines())
    if any(same(each, disk) for each in mounted):
        yield f"drbd_disk {disk} is mounted: unmount it and take it out of /etc/fstab"


def why_not(described, disk, resource):
    """What else there is to say of a disk that is not this resource's."""
    if not described:
        return ""
    if same(described, disk):
        return f" and no metadata of DRBD, so it is not the one that {resource} had under this name"
    return f" and is not {described}, which {resource} had so far"


def same(one, other):
    """Whether two names are one disk's."""
    return bool(one) and os.path.realpath(one) == os.path.realpath(other)


def disk_in(text):
    """The disk that a description names, as drbdadm reads it and drbdsetup prints it."""
    found = re.search(r'^\s*disk\s+"?([^\s;"{]+)"?\s*;', text, re.MULTILINE)
    return found[1] if found else ""


def described_for(resource):
    """The disk that this host's description of the resource names, if it has one."""
    file = RESOURCES / f"{resource}.res"
    return disk_in(file.read_text()) if file.exists() else ""


def used_by(resource):
    """The disk that the kernel uses for the resource now, if it does."""
    return disk_in(output_of("/sbin/drbdsetup", "show", resource) or "")


def size_of(disk):
    try:
        with Path(disk).open("rb") as file:
            return file.seek(0, os.SEEK_END)
    except OSError:
        return 0


def check_address(address):
    have = output_of("ip", "-o", "-4", "address") or ""
    if not re.search(rf"\binet {re.escape(address)}/", have):
        yield (
            f"no interface of this host has drbd_address {address}: set crossover_address to "
            "the address that it has on the link to its peer"
        )


def main():
    wanted = json.loads(sys.argv[1])
    problems = [
        *check_module(),
        *check_disk(wanted["disk"], wanted["resource"]),
        *check_address(wanted["address"]),
    ]
    print(json.dumps({"problems": problems, "size": size_of(wanted["disk"])}))


if __name__ == "__main__":
    main()
