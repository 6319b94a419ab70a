"""What makes one host of a lab out of the image that all begin with.

It is a tar archive that the guest finds as its second disk and unpacks over its root
before anything else starts (``lab-seed.service`` in the image): its name, everybody's
addresses, its network, and the keys for ssh.  Every boot unpacks it again.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from tools.lab.plan import GATEWAY, Host, Plan

SECTOR = 512


def make_keys(folder: Path) -> None:
    """Make the lab's two ssh keys: ``login``, which may log in, and ``host``, of all hosts."""
    for name in ("login", "host"):
        subprocess.run(
            [
                *("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"lab {name}"),
                *("-f", folder / name),
            ],
            check=True,
        )


def hosts_file(plan: Plan) -> str:
    """Everybody's addresses; a host's second one is NAME-crossover."""
    lines = ["127.0.0.1 localhost", f"{GATEWAY.ip} lab"]
    for host in plan.hosts:
        lines.append(f"{host.address} {host.name}")
        lines += [f"{link.address.ip} {host.name}-crossover" for link in host.links[1:]]
    return "\n".join(lines) + "\n"


def network_file(host: Host, number: int) -> str:
    """The definition of one of a host's links, for systemd-networkd."""
    link = host.links[number]
    # A container's end of a cable has an address of its own choice, and the name at once.
    match = f"MACAddress={link.mac}" if host.kind == "vm" else f"Name=eth{number}"
    return (
        f"[Match]\n{match}\n"
        # An address must survive its cable being pulled: it is the cluster's to judge.
        f"[Network]\nAddress={link.address}\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n"
        "ConfigureWithoutCarrier=yes\nIgnoreCarrierLoss=yes\n"
    )


def seed(host: Host, plan: Plan, keys: Path) -> bytes:
    """The archive of one host, in whole sectors.

    Args:
        host: whose it is.
        plan: the lab that it is part of.
        keys: folder that :func:`make_keys` filled.
    """
    files = {
        "etc/hostname": (f"{host.name}\n", 0o644),
        "etc/hosts": (hosts_file(plan), 0o644),
        "root/.ssh/authorized_keys": ((keys / "login.pub").read_text(), 0o600),
        "etc/ssh/ssh_host_ed25519_key": ((keys / "host").read_text(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": ((keys / "host.pub").read_text(), 0o644),
    }
    for number, link in enumerate(host.links):
        files[f"etc/systemd/network/{number}-{link.network}.network"] = (
            network_file(host, number),
            0o644,
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        folder = tarfile.TarInfo("root/.ssh")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o700
        archive.addfile(folder)
        for name, (text, mode) in files.items():
            content = text.encode()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            archive.addfile(entry, io.BytesIO(content))
    archived = buffer.getvalue()
    return archived + bytes(-len(archived) % SECTOR)


def ssh_config(plan: Plan, folder: Path, keeper: int) -> str:
    """What ssh needs to reach the lab's hosts, by name or address.

    Args:
        plan: the lab.
        folder: its state folder, an absolute path.
        keeper: process id of its keeper, whose network namespace is entered.
    """
    lines = [
        *(f"Host {host.name}\n  HostName {host.address}" for host in plan.hosts),
        f"Host {' '.join(host.name for host in plan.hosts)} {str(GATEWAY.ip).rsplit('.', 1)[0]}.*",
        "  User root",
        f"  IdentityFile {folder}/keys/login",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {folder}/known_hosts",
        "  StrictHostKeyChecking yes",
        "  HostKeyAlias lab",
        "  ConnectTimeout 30",
        "  ServerAliveInterval 15",
        "  ServerAliveCountMax 8",
        f"  ProxyCommand nsenter --target {keeper} --net nc %h %p",
    ]
    return "\n".join(lines) + "\n"
