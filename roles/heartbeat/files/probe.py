"""Look at what Heartbeat is going to stand on; run on the host by its role, changes nothing.

``probe.py JSON`` with address (the floating one, with prefix), interface and
crossover_interface (names).  Prints JSON: problems, each as a sentence that says what to
do; configured, whether this host belongs to the pair already;
and taken, the sentence about a floating address that somebody has.  That is a problem only
where neither host of the pair is configured: a new one finds its peer there.
"""

import ipaddress
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path


def addresses():
    """Interface -> its IPv4 addresses, with prefix."""
    run = subprocess.run(["ip", "-o", "-4", "address"], capture_output=True, text=True, check=False)
    found = {}
    for line in run.stdout.splitlines():
        match = re.match(r"\d+: (\S+)\s+inet (\S+)", line)
        if match:
            found.setdefault(match[1], []).append(match[2])
    return found


def answers(address, have, seconds=6):
    """Whether somebody in the network has an address: it has a hardware address there.

    That is asked for below IP, so a firewall does not hide who has it.
    """
    if any(each.split("/")[0] == address for some in have.values() for each in some):
        return True
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        while time.monotonic() < deadline:
            try:
                asking.sendto(b"", (address, 9))
            except OSError:
                return False
            time.sleep(0.5)
            words = ["ip", "-4", "neighbour", "show", "to", address]
            told = subprocess.run(words, capture_output=True, text=True, check=False).stdout
            if "REACHABLE" in told:
                return True
            if "FAILED" in told:
                return False
    return False


def problems(wanted):
    have = addresses()
    for variable in ("interface", "crossover_interface"):
        name = wanted[variable]
        there = sorted(path.name for path in Path("/sys/class/net").iterdir())
        if name not in there:
            yield (
                f"there is no interface {name}: set heartbeat_{variable} to one of "
                f"{', '.join(there)}"
            )
        elif name not in have:
            yield f"the interface {name} (heartbeat_{variable}) has no address: give it one"
    if wanted["interface"] == wanted["crossover_interface"]:
        yield "both paths use one interface: heartbeat_crossover_interface must be another one"
    floating = ipaddress.ip_interface(wanted["address"])
    networks = {ipaddress.ip_interface(each).network for each in have.get(wanted["interface"], [])}
    if networks and floating.network not in networks:
        yield (
            f"heartbeat_address {floating} is in no network of {wanted['interface']} "
            f"({', '.join(sorted(map(str, networks)))}): set one of the two otherwise"
        )


def taken(address):
    """What to say of a floating address that somebody has; nothing where nobody does."""
    address = address.split("/")[0]
    if not answers(address, addresses()):
        return ""
    return (
        f"somebody answers at heartbeat_address {address} already: "
        "choose a free address, or find out whose it is"
    )


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    configured = Path("/etc/ha.d/haresources").exists()
    found = {
        "problems": list(problems(asked)),
        "configured": configured,
        "taken": "" if configured else taken(asked["address"]),
    }
    print(json.dumps(found))
