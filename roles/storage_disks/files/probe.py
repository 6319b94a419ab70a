"""Look at disks before anything is written to them; run on the host, changes nothing.

``probe.py JSON`` with disks (each with disk and ours), modules, wipe, any_name.  Prints JSON:
problems, each a sentence that says what to do, states: disk -> ours, empty, wipe or away, and
sizes: disk -> bytes, of those that are there.
"""

import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

STEADY = re.compile(r"/dev/(disk/by-(id|path|partuuid)|mapper|md)/.")


def output_of(*words):
    """What a program printed, or None where it failed or is not there."""
    try:
        run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return run.stdout if run.returncode == 0 else None


def known_before(ours):
    """Whether this host's own tables have it: then a disk that is not there has failed."""
    if ours.get("mount"):
        table, pattern = "/etc/fstab", rf"^\S+\s+{re.escape(ours['mount'])}\s"
    elif ours.get("array"):
        table, pattern = "/etc/mdadm/mdadm.conf", rf"^ARRAY\s+/dev/md/{re.escape(ours['array'])}\s"
    else:
        return False
    try:
        return bool(re.search(pattern, Path(table).read_text(), re.MULTILINE))
    except OSError:
        return False


def signatures(disk):
    """What wipefs finds, or None where it can't be read."""
    said = output_of("/sbin/wipefs", "--json", disk)
    return None if said is None else json.loads(said or "{}").get("signatures", [])


def beyond_content(found):
    """What is found on a member of an array, without what belongs to the array's content.

    The mark of a member lies before that.  A mirror's members end where it ends itself: DRBD's
    metadata, at the end of an array, is found on each of them.
    """
    marks = [int(each["offset"], 0) for each in found if each["type"] == "linux_raid_member"]
    return [each for each in found if not marks or int(each["offset"], 0) <= marks[0]]


def is_ours(disk, ours, found):
    """Whether what is found is what we have put there ourselves."""
    if ours["type"] == "linux_raid_member":
        found = beyond_content(found)
    if {each["type"] for each in found} != {ours["type"]}:
        return False
    if ours["type"] != "linux_raid_member":
        return [each.get("label") for each in found] == [ours["label"]]
    said = output_of("/sbin/mdadm", "--examine", "--export", disk) or ""
    names = re.findall(r"^MD_NAME=(?:.*:)?(.*)$", said, re.MULTILINE)
    return names == [ours["array"]]


def parts_of(device):
    """The device and its partitions, as the kernel names them."""
    node = Path("/sys/class/block") / device
    return [
        device,
        *(each.name for each in node.glob(f"{device}*") if (each / "partition").exists()),
    ]


def uses_of(device):
    """Who has the device, or a partition of it, in use."""
    parts = {f"/dev/{part}" for part in parts_of(device)}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        source, point = line.split()[:2]
        if os.path.realpath(source) in parts:
            yield f"is mounted on {point}"
    for line in Path("/proc/swaps").read_text().splitlines()[1:]:
        if os.path.realpath(line.split()[0]) in parts:
            yield "is used for swapping"
    for part in parts_of(device):
        for holder in Path(f"/sys/class/block/{part}/holders").glob("*"):
            yield f"belongs to {holder.name}"


def look(wanted, wipe, any_name):
    """State of a disk, and problems with it."""
    disk, ours = wanted["disk"], wanted["ours"]
    if not (any_name or STEADY.match(disk)):
        return "", [f"{disk} may be another disk after a boot: use its name below /dev/disk/by-id"]
    if not Path(disk).exists():
        if known_before(ours):
            return "away", []
        return "", [f"{disk} is not there: name a disk of this host, see ls -l /dev/disk/by-id"]
    if not stat.S_ISBLK(Path(disk).stat().st_mode):
        return "", [f"{disk} is no disk: name a block device"]
    found = signatures(disk)
    if found is None:
        if known_before(ours):
            return "away", []
        return "", [f"{disk} can't be read: look at the kernel's log, and replace it"]
    if found and is_ours(disk, ours, found):
        return "ours", []
    uses = list(uses_of(Path(os.path.realpath(disk)).name))
    if uses:
        return "", [
            f"{disk} {', '.join(sorted(set(uses)))}: let go of it first, or name another disk"
        ]
    if not found:
        return "empty", []
    if disk in wipe:
        return "wipe", []
    kinds = ", ".join(
        each["type"] + (f" ({each['label']})" if each.get("label") else "") for each in found
    )
    return "", [
        f"{disk} holds {kinds}: if nothing on it is needed, run once more with "
        f"-e '{json.dumps({'storage_disks_wipe': [disk]})}', else name another disk"
    ]


def modules_missing(names):
    """Kernel modules that are neither there nor can be loaded."""
    for name in names:
        if not Path(f"/sys/module/{name}").exists() and output_of("/sbin/modinfo", name) is None:
            yield (
                f"kernel {os.uname().release} has no module {name}: install the kernel image of "
                "the distribution (Debian: linux-image-amd64), and boot it"
            )


def sizes_of(disks):
    """Bytes of every disk that can be read."""
    for each in disks:
        try:
            with Path(each["disk"]).open("rb") as file:
                yield each["disk"], file.seek(0, os.SEEK_END)
        except OSError:
            continue


def same_twice(disks):
    """Disks that are named twice, by whatever names."""
    seen = {}
    for each in disks:
        real = os.path.realpath(each["disk"])
        if real in seen:
            yield f"{each['disk']} is the same disk as {seen[real]}: name each disk once"
        seen.setdefault(real, each["disk"])


def main():
    wanted = json.loads(sys.argv[1])
    problems = [*modules_missing(wanted["modules"]), *same_twice(wanted["disks"])]
    states = {}
    for each in wanted["disks"]:
        states[each["disk"]], trouble = look(each, wanted["wipe"], wanted["any_name"])
        problems += trouble
    sizes = dict(sizes_of(wanted["disks"]))
    print(json.dumps({"problems": problems, "states": states, "sizes": sizes}))


if __name__ == "__main__":
    main()
