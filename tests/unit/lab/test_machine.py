"""What a lab's machines are started with, and what they find."""

from __future__ import annotations

import asyncio
import io
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.unit.lab.test_plan import pair
from tools.lab import container, seed
from tools.lab.image import Image, fingerprint, packages
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


def test_the_image_is_named_for_what_decides_its_content() -> None:
    assert len(fingerprint()) == 16
    assert {"drbd-utils", "heartbeat", "linux-image-cloud-amd64"} <= set(packages())
