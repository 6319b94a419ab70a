"""Which disks the role drbd takes, and what it writes down.  No kernel with DRBD is needed.

Where DRBD's metadata is on a disk, and what wipefs makes of it, is as drbdmeta 9.22 writes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import BIN, CHECKOUT
from tests.support.loops import loop_disks
from tests.support.sandbox import Sandbox, role, sandbox

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]

SIZE = 4 << 20
LUKS = (0, b"LUKS\xba\xbe\x00\x02")
DRBD = (SIZE - 4096 + 60, bytes.fromhex("8374026b"))
IN_USE = (SIZE - 4096 + 60, bytes.fromhex("8374026c"))
PEER: dict[str, Any] = {
    "ansible_connection": "local",
    "ansible_python_interpreter": str(BIN / "python"),
    "crossover_address": "127.0.0.2",
}


@pytest.fixture
def disk(tmp_path: Path) -> Callable[..., Path]:
    """Makes a disk that is a file, with signatures."""

    def make(name: str, *signatures: tuple[int, bytes]) -> Path:
        file = tmp_path / name
        data = bytearray(SIZE)
        for offset, magic in signatures:
            data[offset : offset + len(magic)] = magic
        file.write_bytes(data)
        return file

    return make


@pytest.fixture
def problems(tmp_path: Path) -> Callable[..., list[str]]:
    """What the probe says of a disk.

    Its arguments are the disk, the one that the description on the host names, and the one that
    the kernel uses.
    """

    def ask(disk: Path, described: Path | None = None, used: Path | None = None) -> list[str]:
        names: dict[str, Any] = {"__name__": "probe"}
        source = (CHECKOUT / "roles/drbd/files/probe.py").read_text()
        exec(compile(source, "probe.py", "exec"), names)
        names["RESOURCES"] = tmp_path
        if described:
            text = (CHECKOUT / "roles/drbd/templates/resource.res.j2").read_text()
            text = text.replace("{{ drbd_disk }}", str(described))
            (tmp_path / "cluster1.res").write_text(text)
        output_of = names["output_of"]

        def said(*words: str) -> str | None:
            if words[0] != "/sbin/drbdsetup":
                told: str | None = output_of(*words)
                return told
            assert words[1:] == ("show", "cluster1")
            line = f'\tdisk\t\t\t"{used}";\n' if used else ""
            return f"    volume 0 {{\n{line}\tdisk {{\n\t    resync-rate 30720k;\n\t}}\n    }}\n"

        names["output_of"] = said
        return list(names["check_disk"](str(disk), "cluster1"))

    return ask


def test_empty_disks_are_taken(
    disk: Callable[..., Path], problems: Callable[..., list[str]]
) -> None:
    new = disk("new")
    assert problems(new) == []
    # After a run that was interrupted, or one that is new in the dead one's place.
    assert problems(new, described=new) == []
    assert problems(new, described=new.parent / "dead") == []


@pytest.mark.parametrize("state", [DRBD, IN_USE])
def test_the_disk_that_it_has_is_taken(
    state: tuple[int, bytes], disk: Callable[..., Path], problems: Callable[..., list[str]]
) -> None:
    own = disk("own", LUKS, state)
    assert problems(own, described=own) == []
    other_name = own.parent / "by-id"
    other_name.symlink_to(own)
    assert problems(other_name, described=own, used=own) == []


def test_what_the_kernel_uses_is_taken_whatever_is_on_it(
    disk: Callable[..., Path], problems: Callable[..., list[str]]
) -> None:
    # It was made larger: its metadata is not at its end until `drbdadm resize`.
    own = disk("own", LUKS)
    assert problems(own, described=own, used=own) == []


def test_another_disk_is_refused_on_a_host_that_has_one(
    disk: Callable[..., Path], problems: Callable[..., list[str]]
) -> None:
    foreign, own = disk("foreign", LUKS), disk("own", DRBD)
    (said,) = problems(foreign, described=own)
    assert f"drbd_disk {foreign} holds crypto_LUKS and is not {own}, which cluster1 had" in said
    assert f"empty it by hand with `wipefs --all {foreign}`, else name another disk" in said
    # That of another pair.
    moved = disk("moved", DRBD)
    assert "holds drbd and is not" in problems(moved, described=own)[0]
    (own.parent / "cluster1.res").unlink()
    assert f"drbd_disk {moved} holds drbd: if nothing" in problems(moved)[0]


def test_a_disk_that_only_a_description_names_is_refused(
    disk: Callable[..., Path], problems: Callable[..., list[str]]
) -> None:
    foreign = disk("foreign", LUKS)
    (said,) = problems(foreign, described=foreign)
    assert "holds crypto_LUKS and no metadata of DRBD, so it is not the one that cluster1" in said


def test_no_disk_is_taken_away_from_a_kernel_that_uses_it(
    disk: Callable[..., Path], problems: Callable[..., list[str]]
) -> None:
    new, own = disk("new"), disk("own", DRBD)
    for described in (own, new):
        (said,) = problems(new, described=described, used=own)
        assert f"drbd_disk is {new}, but cluster1 uses {own}" in said
        assert "`drbdadm detach cluster1` on this host" in said


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    given = {
        "crossover_address": "127.0.0.1",
        "drbd_resource": "cluster1",
        "drbd_disk": "/dev/disk/by-id/data",
    }
    folder = tmp_path_factory.mktemp("drbd")
    with sandbox(folder, ["pair_cluster1"], **given) as made:
        for name, text in {"drbdadm": DRBDADM, "modprobe": "#!/bin/sh\n"}.items():
            made.run("rm", "-f", f"/usr/sbin/{name}")
            made.run("tee", f"/usr/sbin/{name}", input=text)
            made.run("chmod", "755", f"/usr/sbin/{name}")
        with loop_disks(made, tmp_path_factory.mktemp("disks"), data=4):
            yield made


DRBDADM = r"""#!/bin/bash
echo "drbdadm $*" >>/srv/calls
case $* in
dstate*) exit 10 ;;
dump-md*) echo "No valid meta data found" >&2; exit 255 ;;
--dry-run*) echo "drbdsetup attach" ;;
esac
"""


def test_metadata_is_made_on_an_empty_disk_alone(host: Sandbox) -> None:
    device = host.run("readlink", "-f", "/dev/disk/by-id/data").stdout.strip()
    pair = {"pair_cluster1": {"right": PEER}}
    made = "drbdadm -- --force create-md cluster1"
    host.run("mkswap", device)
    held = Path(device).read_bytes()
    refused = host.play([role("drbd", "device")], hosts=pair)
    assert refused.exit_code != 0
    said = " ".join(refused.output.split())
    assert "has no valid metadata of DRBD, and holds swap: if nothing on it is needed" in said
    assert made not in host.read("/srv/calls")
    assert Path(device).read_bytes() == held

    host.run("wipefs", "--all", device)
    host.run("mkdir", "/etc/ha.d")
    host.run("touch", "/etc/ha.d/haresources")
    done = host.play([role("drbd", "device")], hosts=pair)
    assert done.exit_code == 0, done.output
    assert made in host.read("/srv/calls")


def test_a_check_of_a_fresh_host_leaves_nothing_and_tells_no_secret(host: Sandbox) -> None:
    names = {
        "ansible.builtin.setup": {"gather_subset": ["!all", "!min", "platform"]},
        "delegate_to": "right",
        "delegate_facts": True,
    }
    pair = {"pair_cluster1": {"right": PEER}}
    done = host.play([names, role("drbd")], "--check", "--diff", hosts=pair)
    assert done.exit_code == 0, done.output
    assert "drbd : Describe the resource" in done.changed_tasks
    assert "shared-secret" not in done.output
    assert not (host.folder / "secrets").exists()


def test_the_name_of_a_peer_that_is_not_asked_is_not_guessed(host: Sandbox) -> None:
    pair = {"pair_cluster1": {"right": PEER}}
    (said,) = host.refusals(role("drbd", "preflight"), hosts=pair)
    assert "right is not in this run, so it is not known what it calls itself" in said
    assert "--limit pair_cluster1" in said


def test_a_peer_that_is_dead_is_called_what_it_was_called(host: Sandbox) -> None:
    described = f"resource cluster1 {{\n  on its-own-name {{\n  on {os.uname().nodename} {{\n"
    host.run("sh", "-c", f"mkdir -p /etc/drbd.d; printf '{described}' >/etc/drbd.d/cluster1.res")
    names = {"content": "{{ drbd_peer_node }}", "dest": str(host.folder / "its")}
    # What else is refused does not matter here: there is no kernel with DRBD.
    asks = {
        "block": [role("drbd", "preflight", public=True)],
        "rescue": [{"ansible.builtin.copy": names}],
    }
    done = host.play([asks], hosts={"pair_cluster1": {"right": PEER}})
    assert done.exit_code == 0, done.output
    assert (host.folder / "its").read_text() == "its-own-name"
