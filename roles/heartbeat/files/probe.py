"""Look at what Heartbeat is going to stand on; run on the host by its role, changes nothing.

``probe.py JSON`` with interface and crossover_interface (names); host_address and
crossover_address (of this host, which its peer hears it by); address (the floating one, with
prefix); and held (variable -> value, what a group is stopped by).  Prints JSON: problems, each as a
sentence that says what to do; configured, whether this host may have the floating address
already; and taken, the sentence about one that somebody has.  That is a problem only where
neither host of the pair is configured: a new one finds its peer there.
"""

import ipaddress
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

HARESOURCES = Path("/etc/ha.d/haresources")


def output_of(*words):
    """What a program printed; nothing where it is not there."""
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def addresses():
    """Interface -> its IPv4 addresses, with prefix."""
    found = {}
    for line in output_of("ip", "-o", "-4", "address").splitlines():
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
            told = output_of("ip", "-4", "neighbour", "show", "to", address)
            if "REACHABLE" in told:
                return True
            if "FAILED" in told:
                return False
    return False


def plain(address):
    """Whether it is a number, not a name: that the peer looks up in its own way."""
    try:
        return ipaddress.ip_address(address).version == 4
    except ValueError:
        return False


def paths(wanted, have):
    """Addresses of this host that its peer sends to, but that the path's interface has not."""
    for variable, address, named in (
        ("interface", wanted["host_address"], "ansible_host, or else heartbeat_host_address"),
        ("crossover_interface", wanted["crossover_address"], "crossover_address"),
    ):
        interface = wanted[variable]
        there = [each.split("/")[0] for each in have.get(interface, [])]
        if not there or not plain(address) or address in there:
            continue
        elsewhere = " and ".join(
            name for name, some in have.items() if address in {each.split("/")[0] for each in some}
        )
        yield (
            f"the peer sends to {address} ({named}), which {elsewhere or 'no interface'} has, but "
            f"heartbeat_{variable} is {interface}, which has {', '.join(there)}: set one of the "
            "two otherwise"
        )


def listed():
    """What the group of this host was started with: the arguments of its resources."""
    if not HARESOURCES.exists():
        return []
    lines = HARESOURCES.read_text().splitlines()
    resources = [word for line in lines if not line.startswith("#") for word in line.split()[1:]]
    return [argument for resource in resources for argument in resource.split("::")[1:]]


def changed(held):
    """What can't be changed now: Heartbeat stops its resources by what the file says then.

    Names of the scripts are not compared: these do the same, in all releases.
    """
    started = listed()
    other = [f"{variable} {value}" for variable, value in held.items() if value not in started]
    runs = output_of("systemctl", "is-active", "heartbeat.service").strip()
    if not started or not other or runs in ("", "inactive", "failed", "unknown"):
        return
    yield (
        f"Heartbeat runs here with {' '.join(started)}, not with {' and '.join(other)}: it would "
        "stop what it has not started, and leave what it has.  Have it stop all that first: "
        "`systemctl stop heartbeat` on the host without the group, then on the other one; then "
        "run this for both again, which starts it"
    )


def problems(wanted):
    have = addresses()
    yield from changed(wanted["held"])
    yield from paths(wanted, have)
    there = sorted(name for _, name in socket.if_nameindex())
    for variable in ("interface", "crossover_interface"):
        name = wanted[variable]
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
    floating = asked["address"].split("/")[0]
    configured = floating in {each.split("/")[0] for each in listed()}
    found = {
        "problems": list(problems(asked)),
        "configured": configured,
        "taken": "" if configured else taken(asked["address"]),
    }
    print(json.dumps(found))
