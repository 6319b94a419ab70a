"""Look at what DRBD is going to stand on; run on the host by the role drbd, changes nothing.

``probe.py JSON`` with disk, address, resource and floating (addresses that nobody may
have yet).  Prints JSON: problems, each as a sentence that says what to do, and the size
of the disk in bytes.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path


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
    """Problems with the disk; one that this resource has already is no problem."""
    if not Path(disk).exists():
        yield f"drbd_disk {disk} is not there: name a disk of this host, see /dev/disk/by-id"
        return
    listed = output_of("/sbin/wipefs", "--json", disk)
    if listed is None:
        yield f"drbd_disk {disk} is no disk that can be read: name a whole, unused disk"
        return
    found = {each["type"] for each in json.loads(listed or "{}").get("signatures", [])}
    if found and not ours(resource):
        yield (
            f"drbd_disk {disk} holds {', '.join(sorted(found))}: if nothing on it is needed, "
            f"empty it by hand with `wipefs --all {disk}`, else name another disk"
        )
    mounted = (line.split()[0] for line in Path("/proc/mounts").read_text().splitlines())
    if any(Path(each).resolve() == Path(disk).resolve() for each in mounted):
        yield f"drbd_disk {disk} is mounted: unmount it and take it out of /etc/fstab"


def ours(resource):
    return Path(f"/etc/drbd.d/{resource}.res").exists()


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
