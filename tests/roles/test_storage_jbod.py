"""Disks that stand each for themselves, as loop devices: made, kept, refused, lost."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.box import BIN, CHECKOUT
from tests.support.loops import loop_disks
from tests.support.sandbox import Sandbox, role, sandbox

pytestmark = [pytest.mark.roles, pytest.mark.timeout(900)]

ID = "/dev/disk/by-id"
TASKS = [role("storage_jbod", "preflight"), role("storage_jbod")]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    given = {
        "lj_user": "",
        "lj_group": "",
        "lj_runtime_dir": "/none",
        "disk_checker_control_program": str(BIN / "disk-checker"),
        "storage_jbod_root": "/srv/mogdata",
        "storage_jbod_disks": [{"name": f"dev{n}", "disk": f"{ID}/disk{n}"} for n in (1, 2, 3)],
    }
    with sandbox(tmp_path_factory.mktemp("jbod"), **given) as made:
        yield made


@pytest.fixture(scope="module")
def disks(host: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    small = ("disk1", "disk2", "disk3", "new", "foreign", "table")
    sizes = dict.fromkeys(small, 24) | {"spare": 320}
    with loop_disks(host, tmp_path_factory.mktemp("disks"), **sizes) as made:
        yield made
        # What is mounted in the sandbox holds its device.
        for point in ("dev1", "dev2", "dev3", "dev6", "dev7"):
            host.run("umount", f"/srv/mogdata/{point}", check=False)


def mounted(host: Sandbox, name: str) -> dict[str, str]:
    """How a disk is mounted; nothing where it is not."""
    words = ("findmnt", "--json", "--output", "SOURCE,FSTYPE,OPTIONS,LABEL")
    run = host.run(*words, "--mountpoint", f"/srv/mogdata/{name}", check=False)
    found: list[dict[str, str]] = json.loads(run.stdout)["filesystems"] if run.stdout else [{}]
    return found[0]


def test_each_disk_is_a_file_system_of_its_own_and_one_that_fails_is_alone(
    host: Sandbox, disks: Mapping[str, str]
) -> None:
    made = host.play(TASKS)
    assert made.exit_code == 0, made.output
    for number in (1, 2, 3):
        found = mounted(host, f"dev{number}")
        assert found["source"] == disks[f"{ID}/disk{number}"]
        assert (found["fstype"], found["label"]) == ("ext4", f"lj-dev{number}")
        assert "noatime" in found["options"].split(",")
        assert "errors=remount-ro" in found["options"]
    table = [line.split() for line in host.read("/etc/fstab").splitlines() if "mogdata" in line]
    assert all(line[0].startswith("UUID=") and "nofail" in line[3] for line in table)
    host.run("tee", "/srv/mogdata/dev1/file", input="kept")
    again = host.play(TASKS, "--check", "--diff")
    assert again.exit_code == 0, again.output
    assert again.changed_tasks == []

    # A boot: all is mounted from the table.
    points = [f"/srv/mogdata/dev{number}" for number in (1, 2, 3)]
    host.run("umount", *points)
    assert host.run("stat", "--format=%a", *points).stdout.split() == ["0", "0", "0"]
    host.run("mount", "--all")
    assert host.read("/srv/mogdata/dev1/file") == "kept"

    # One takes no writes any more, one is gone; the third is mounted all the same.
    host.run("mount", "-o", "remount,ro", points[0])
    host.run("umount", *points[1:])
    host.run("rm", f"{ID}/disk2")
    broken = host.play(TASKS)
    assert broken.exit_code != 0
    assert "all other disks are as they should be, but" in broken.output
    assert f"dev1 ({ID}/disk1):" in broken.output
    assert f"dev2 ({ID}/disk2): is gone, or can not be read" in broken.output
    assert broken.changed_tasks == ["storage_disks : Mount it"]
    assert mounted(host, "dev3")
    host.run("ln", "-s", disks[f"{ID}/disk2"], f"{ID}/disk2")
    host.run("mount", "-o", "remount,rw", points[0])


def test_a_new_disk_takes_the_place_of_one_that_failed_without_a_boot(
    host: Sandbox, disks: Mapping[str, str]
) -> None:
    # The kernel has it mounted still, whatever has become of it.
    host.run("mount", "--all")
    old = mounted(host, "dev2")["source"]
    host.run("mount", "-o", "remount,ro", "/srv/mogdata/dev2")
    host.run("rm", f"{ID}/disk2")
    names = {"dev1": "disk1", "dev2": "new", "dev3": "disk3"}
    now = [{"name": name, "disk": f"{ID}/{disk}"} for name, disk in names.items()]

    # A program that does not let go of the old one is told.
    user = subprocess.Popen(
        host.inside("sh", "-c", "cd /srv/mogdata/dev2 && echo ready && exec sleep infinity"),
        stdout=subprocess.PIPE,
    )
    try:
        assert user.stdout is not None
        assert user.stdout.readline() == b"ready\n"
        refused = host.play(TASKS, storage_jbod_disks=now)
    finally:
        user.kill()
        user.wait()
    assert refused.exit_code != 0
    assert "/srv/mogdata/dev2: target is busy" in refused.output
    assert mounted(host, "dev2")["source"] == old

    told = host.play(TASKS, "--check", storage_jbod_disks=now)
    assert told.exit_code == 0, told.output
    assert told.changed_tasks == ["storage_disks : Have it mounted at every boot"]
    assert mounted(host, "dev2")["source"] == old
    run = host.play(TASKS, storage_jbod_disks=now)
    assert run.exit_code == 0, run.output
    found = mounted(host, "dev2")
    assert found["source"] == disks[f"{ID}/new"] != old
    assert "rw" in found["options"].split(",")
    assert host.read("/srv/mogdata/dev1/file") == "kept"
    again = host.play(TASKS, storage_jbod_disks=now)
    assert again.changed_tasks == []
    host.run("ln", "-s", disks[f"{ID}/disk2"], f"{ID}/disk2")


def test_what_holds_something_is_refused_unless_it_may_go(
    host: Sandbox, disks: Mapping[str, str]
) -> None:
    foreign, table, spare = (f"{ID}/{name}" for name in ("foreign", "table", "spare"))
    subprocess.run(["mkfs.ext4", "-q", "-L", "photos", disks[foreign]], check=True)
    # One partition, of Linux, as an MBR tells it.
    entry = bytes((0, 0, 2, 0, 0x83, 0, 2, 0)) + (1).to_bytes(4, "little") * 2
    Path(disks[table]).write_bytes(bytes(446) + entry + bytes(48) + b"\x55\xaa")

    ours = {"type": "ext4", "label": "lj-dev6", "mount": "/srv/mogdata/dev6"}

    def problem(*asked: str, **more: Any) -> str:
        """What the look at disks says of the last one."""
        wanted = {"disks": [{"disk": disk, "ours": ours} for disk in asked]}
        question = {**wanted, "modules": [], "wipe": [], "any_name": False, **more}
        probe = CHECKOUT / "roles/storage_disks/files/probe.py"
        told = json.loads(host.run(BIN / "python", probe, json.dumps(question)).stdout)
        return str((told["problems"] or [told["states"][asked[-1]]])[-1])

    assert problem(table).startswith(f"{table} holds dos: if nothing on it is needed")
    assert "may be another disk after a boot" in problem(disks[spare])
    assert "is not there: name a disk of this host" in problem(f"{ID}/nobody")
    assert "is no disk: name a block device" in problem(f"{ID}/../../null")
    host.run("ln", "-s", disks[spare], f"{ID}/other-name")
    assert f"{ID}/other-name is the same disk as {spare}" in problem(spare, f"{ID}/other-name")
    assert "has no module raid99" in problem(spare, modules=["raid99"])
    assert problem(spare) == "empty"
    host.run("mkdir", "-p", "/srv/elsewhere")
    host.run("mount", disks[foreign], "/srv/elsewhere")
    assert "is mounted on /srv/elsewhere: let go" in problem(foreign, wipe=[foreign])
    host.run("umount", "/srv/elsewhere")
    assert problem(foreign, wipe=[foreign]) == "wipe"

    reports = host.folder / "control/disk-checker/reports/localhost"
    reports.mkdir(parents=True)
    plan = {"target": spare, "facts": {}}
    lying = {"exit_code": 1, "headline": "LYING: it did", "clean_cycles": 0, "plan": plan}
    (reports / "spare.json").write_text(json.dumps(lying))
    said = host.refusals(
        *(
            role("storage_jbod", "preflight", storage_jbod_disks=[{"name": name, "disk": disk}])
            for name, disk in (("dev6", foreign), ("dev6", spare), ("Dev_1", spare))
        )
    )
    assert f"{foreign} holds ext4 (photos): if nothing on it is needed" in said[0]
    assert "storage_disks_wipe" in said[0]
    assert "localhost must not hold data" in said[1]
    assert "LYING: it did" in said[1]
    assert "a name is a small letter" in said[2]
    (reports / "spare.json").unlink()

    # Told so, and only then, what is foreign goes; what is ours stays, whatever is told.
    told = {"storage_disks_wipe": [foreign, f"{ID}/disk1"]}
    these = [{"name": "dev1", "disk": f"{ID}/disk1"}, {"name": "dev6", "disk": foreign}]
    xfs = {"storage_jbod_disks": [{"name": "dev7", "disk": spare}], "storage_jbod_type": "xfs"}
    entries = ("preflight", "main")
    tasks = [*TASKS, *(role("storage_jbod", entry, **xfs) for entry in entries)]
    run = host.play(tasks, storage_jbod_disks=these, **told)
    assert run.exit_code == 0, run.output
    assert mounted(host, "dev6")["label"] == "lj-dev6"
    assert host.read("/srv/mogdata/dev1/file") == "kept"
    found = mounted(host, "dev7")
    assert (found["fstype"], found["label"]) == ("xfs", "lj-dev7")
    assert "errors=" not in found["options"]
