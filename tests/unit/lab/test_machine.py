"""What a lab's machines are started with, and what they find."""

from __future__ import annotations

import asyncio
import io
import shutil
import tarfile
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import pytest

from tests.unit.lab.test_plan import pair
from tools.lab import container, seed, virtual
from tools.lab.container import REBOOT, Container
from tools.lab.image import Image
from tools.lab.machine import Frame, Machine, MachineError
from tools.lab.rack import machine, prepare
from tools.lab.virtual import command

pytestmark = pytest.mark.unit


def words_of(accelerator: str = "tcg") -> str:
    host = pair(lab_disks={"data": 64}).hosts[0]
    return " ".join(command(host, Frame(Image(Path("/image")), Path("/state/db-a"), accelerator)))


def test_boots_the_image_s_kernel_from_a_layer_of_its_own() -> None:
    words = words_of()
    assert "-kernel /image/vmlinuz -initrd /image/initrd" in words
    assert "format=qcow2,file=/state/db-a/root.qcow2" in words
    assert "/image/root.ext4" not in words  # only the layer knows it


def test_disks_come_in_the_order_that_the_guest_relies_on() -> None:
    words = words_of()
    order = [words.index(f"serial={name}") for name in ("root", "seed", "data")]
    assert order == sorted(order)
    assert "file=/state/db-a/seed.tar,readonly=on" in words


def test_has_a_cable_for_each_network() -> None:
    words = words_of()
    assert words.count("-device virtio-net-pci") == 2
    assert "id=public" in words
    assert "id=cluster1" in words


@pytest.mark.parametrize(
    ("accelerator", "there"), [("tcg", "-accel tcg,thread=multi -cpu qemu64"), ("kvm", "-cpu host")]
)
def test_runs_as_the_probe_said(accelerator: str, there: str) -> None:
    assert there in words_of(accelerator)


def test_a_container_has_the_same_names_for_its_cables() -> None:
    host = pair(lab_kind="container").hosts[1]
    words = container.command(host, Frame(Image(Path("/image")), Path("/state/db-b")))
    assert words[0] == "systemd-nspawn"
    assert "--directory=/state/db-b/root" in words
    assert [word for word in words if "veth" in word] == [
        "--network-veth-extra=lab1n0:eth0",
        "--network-veth-extra=lab1n1:eth1",
    ]


def test_a_renewed_machine_has_nothing_of_the_old_one(tmp_path: Path) -> None:
    image = Image(tmp_path)
    image.root.write_bytes(bytes(1 << 20))
    plan = pair(lab_disks={"data": 1})
    host = plan.hosts[0]
    frame = Frame(image, tmp_path / "db-a")
    prepare(plan, host, frame, b"seed")
    root = frame.folder / "root.qcow2"
    empty = root.read_bytes()
    for disk in (root, frame.data("data")):
        disk.write_bytes(b"what was there")
    its = machine(plan, host, frame)
    asyncio.run(its.fail("data"))
    assert its.status() == {"on": False, "cut": [], "failed": ["data"]}
    asyncio.run(its.renew())
    assert its.status()["failed"] == []
    assert root.read_bytes() == empty
    assert frame.data("data").read_bytes() == bytes(1 << 20)
    assert frame.seed.read_bytes() == b"seed"


def test_a_machine_with_power_is_not_renewed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    its = machine(pair(), pair().hosts[0], Frame(Image(tmp_path), tmp_path))
    monkeypatch.setattr(Machine, "is_on", True)
    with pytest.raises(MachineError, match="db-a has power: pull it first"):
        asyncio.run(its.renew())
    assert not any(tmp_path.iterdir())


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    if shutil.which("ssh-keygen") is None:
        pytest.fail("needs ssh-keygen: install the Debian package openssh-client")
    seed.make_keys(tmp_path)
    return tmp_path


def test_the_seed_makes_a_host(keys: Path) -> None:
    plan = pair()
    data = seed.seed(plan.hosts[1], plan, keys)
    assert len(data) % seed.SECTOR == 0  # it is read as a disk
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {entry.name: entry for entry in archive}

        def text(name: str) -> str:
            file = archive.extractfile(name)
            assert file is not None
            return file.read().decode()

        assert text("etc/hostname") == "db-b\n"
        assert "10.78.1.1 db-a-crossover\n" in text("etc/hosts")
        assert "Address=10.77.0.12/24" in text("etc/systemd/network/0-public.network")
        assert "Address=10.78.1.2/24" in text("etc/systemd/network/1-cluster1.network")
        assert text("root/.ssh/authorized_keys") == (keys / "login.pub").read_text()
    assert files["etc/ssh/ssh_host_ed25519_key"].mode == 0o600
    assert files["root/.ssh"].mode == 0o700


def test_a_container_s_cables_are_known_by_name(keys: Path) -> None:
    plan = pair(lab_kind="container")
    with tarfile.open(fileobj=io.BytesIO(seed.seed(plan.hosts[0], plan, keys))) as archive:
        file = archive.extractfile("etc/systemd/network/1-cluster1.network")
        assert file is not None
        assert "[Match]\nName=eth1\n[Network]\nAddress=10.78.1.1/24" in file.read().decode()


def test_ssh_goes_through_the_keeper_s_network_and_trusts_one_key() -> None:
    text = seed.ssh_config(pair(), Path("/state"), 4711)
    assert "ProxyCommand nsenter --target 4711 --net nc %h %p" in text
    assert "StrictHostKeyChecking yes" in text
    assert "Host db-a\n  HostName 10.77.0.11\n" in text


def test_says_why_a_disk_could_not_be_made(tmp_path: Path) -> None:
    host = pair().hosts[0]
    its = machine(pair(), host, Frame(Image(tmp_path / "none"), tmp_path))
    with pytest.raises(MachineError, match=r"qemu-img create.*none/root\.ext4"):
        asyncio.run(its.renew())


class Rebooting(Container):
    """A container whose systemd tells nspawn to boot anew, as soon as a file is there."""

    def __init__(self, *words: Any) -> None:
        super().__init__(*words)
        self.starts = 0
        self.again = asyncio.Event()

    def _mount(self) -> None:
        pass

    async def _start(self) -> Process:
        process = await super()._start()
        self.starts += 1
        if self.starts == 2:
            self.again.set()
        return process

    async def reboots(self) -> None:
        """It ends, and wants to boot anew."""
        process = self._process
        assert process is not None
        self._frame.seed.touch()
        assert await process.wait() == REBOOT

    async def watched(self) -> None:
        """Returns when all has been done that was to be."""
        await asyncio.gather(*self._watches)


@pytest.fixture
def rebooting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rebooting:
    async def no_cables(*_: str) -> None:
        await asyncio.sleep(0)

    frame = Frame(Image(tmp_path), tmp_path)
    gone = f"[ -d {tmp_path} ] || exit 1"
    waits = f"until rm {frame.seed} 2>/dev/null; do sleep 0.01; {gone}; done; exit {REBOOT}"
    monkeypatch.setattr(container, "command", lambda *_: ["sh", "-c", waits])
    monkeypatch.setattr(container, "groups", lambda _: iter(()))
    monkeypatch.setattr(container, "_ip", no_cables)
    host = pair(lab_kind="container").hosts[0]
    return Rebooting(host, frame, {"public": "labbr0", "cluster1": "labbr1"})


def test_a_container_that_reboots_is_started_anew(rebooting: Rebooting) -> None:
    async def story() -> None:
        await rebooting.on()
        await rebooting.reboots()
        await rebooting.again.wait()
        async with rebooting.lock:
            assert rebooting.is_on
            await rebooting.pull()
        await rebooting.watched()

    asyncio.run(asyncio.wait_for(story(), 60))
    assert (rebooting.starts, rebooting.is_on) == (2, False)


def test_one_whose_power_is_pulled_as_it_reboots_stays_off(rebooting: Rebooting) -> None:
    async def story() -> None:
        async with rebooting.lock:
            await rebooting.on()
            await rebooting.reboots()
            # Whoever waited for its end knows of it when the power goes.
            await asyncio.sleep(0)
            await rebooting.pull()
        await rebooting.watched()

    asyncio.run(asyncio.wait_for(story(), 60))
    assert (rebooting.starts, rebooting.is_on) == (1, False)


def test_a_monitor_that_says_nothing_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtual, "MONITOR_S", 0.1)
    monkeypatch.setattr(Machine, "is_on", True)
    its = machine(pair(), pair().hosts[0], Frame(Image(tmp_path), tmp_path))
    with pytest.raises(MachineError, match="db-a: qemu's monitor does not answer"):
        asyncio.run(asyncio.wait_for(its.press(), 60))
