"""What a host of a pair says about itself; run by the role heartbeat, changes nothing.

``state.py JSON`` with resource, peer (the node's name; empty where that is not known, then it
is Heartbeat's other node), address (the floating one), unit (of the server) and watcher (its
unit).  Prints a JSON object; what can't be told is an empty string.
"""

import json
import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path


def said(*words):
    """What a program printed; nothing where it is not there, fails or takes too long."""
    try:
        run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip()


def verified(resource):
    """When both sides were compared last, in UTC."""
    stamp = Path(f"/var/lib/lj-drbd-verify-{resource}")
    if not stamp.exists():
        return ""
    when = datetime.fromtimestamp(stamp.stat().st_mtime, timezone.utc)  # noqa: UP017
    return when.strftime("%Y-%m-%d %H:%M")


def out_of_sync(resource):
    """Bytes that differ between both sides, as far as that is known."""
    minor = said("drbdadm", "sh-minor", resource)
    lines = said("cat", "/proc/drbd").splitlines()
    for number, line in enumerate(lines):
        if minor and line.strip().startswith(f"{minor}: cs:") and number + 1 < len(lines):
            for word in lines[number + 1].split():
                if word.startswith("oos:"):
                    return int(word.removeprefix("oos:")) << 10
    return ""


def other_node():
    """The peer's name, as Heartbeat on this host was told it."""
    nodes = said("cl_status", "listnodes", "-n").split()
    return next((node for node in nodes if node != os.uname().nodename), "")


def main():
    wanted = json.loads(sys.argv[1])
    resource = wanted["resource"]
    role = said("drbdadm", "role", resource)
    address = said("ip", "-o", "-4", "address", "show", "to", f"{wanted['address']}/32")
    found = {
        "role": role.split("/")[0],
        "disks": said("drbdadm", "dstate", resource),
        "connection": said("drbdadm", "cstate", resource),
        "out_of_sync": out_of_sync(resource),
        "heartbeat": said("cl_status", "hbstatus"),
        "peer": said("cl_status", "nodestatus", wanted["peer"] or other_node()),
        "has_address": bool(address),
        "server": said("systemctl", "is-active", wanted["unit"]),
        "watcher": said("systemctl", "is-active", wanted["watcher"]),
        "verified": verified(resource),
    }
    found["has_group"] = found["has_address"] and found["role"] == "Primary"
    print(json.dumps(found))


if __name__ == "__main__":
    main()
