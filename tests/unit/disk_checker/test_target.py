"""Bad input: a clear sentence, exit code 2 or 3, nothing destroyed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from disk_checker import claim as claim_module
from disk_checker.claim import claim
from disk_checker.cli import main
from disk_checker.cycle import own_listener
from disk_checker.errors import ListenerGone, Refused, TargetError
from disk_checker.plan import parse_size
from disk_checker.stamp import Stamper
from disk_checker.target import Target, real_path
from disk_checker.uplink import connect, parse_address
from tests.support.disk_programs import CHECKER

pytestmark = pytest.mark.unit


def take(path: Path, **changes: Any) -> Target:
    return claim(path, **({"size": 1 << 20, "block_size": 4096} | changes))


def test_data_of_others_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "database"
    path.write_bytes(b"precious" * 1000)
    with pytest.raises(TargetError, match=r"did not write.*--force"):
        take(path)
    assert path.read_bytes() == b"precious" * 1000
    target = take(path, force=True)
    assert target.plan.prior == "unknown"
    target.close()


@pytest.mark.parametrize("size", [6, 511, 513])
def test_data_shorter_than_a_sector_is_data_of_others(tmp_path: Path, size: int) -> None:
    path = tmp_path / "note"
    content = bytes(size - 6) + b"hello\n"
    path.write_bytes(content)
    with pytest.raises(TargetError, match=r"did not write.*--force"):
        take(path)
    assert path.read_bytes() == content


def test_data_far_behind_the_beginning_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"x" * (1 << 20))
    with pytest.raises(TargetError, match="did not write"):
        take(path, size=64 << 20)


def test_a_part_of_a_file_with_holes_is_seen_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek((33 << 20) + 8192)
        file.write(b"x" * 4096)
    with pytest.raises(TargetError, match="did not write"):
        take(path, size=64 << 20)


def test_a_file_of_an_older_run_may_be_used_again(tmp_path: Path) -> None:
    path = tmp_path / "ours"
    path.write_bytes(Stamper(4, 4096).build(0, 1, 1) + Stamper(5, 4096).build(0, 1, 1) * 3)
    target = take(path)
    assert target.plan.prior == "ours"
    assert target.plan.inode == path.stat().st_ino
    assert target.plan.prior_run == 5, "so that the next run's id is later, whatever the clock says"
    target.close()


def test_a_file_that_is_a_device_now_is_refused_even_with_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"a file system" * 1000)
    loop = tmp_path / "sys/block/loop7/loop"
    loop.mkdir(parents=True)
    (loop / "backing_file").write_text(f"{path}\n")
    monkeypatch.setattr(claim_module, "SYS_BLOCK", tmp_path / "sys/block")
    with pytest.raises(TargetError, match=r"in use as /dev/loop7.*losetup -d"):
        take(path, force=True)


def test_files_that_only_look_like_ours_are_others(tmp_path: Path) -> None:
    """Once a run would have removed the first and taken the second for its own."""
    for name in ("slot-machine.jpg", "new-york"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("mine")
        with pytest.raises(TargetError, match=f"holds other files .{name}"):
            take(folder, workload="rename")
        target = take(folder, workload="rename", force=True)
        (folder / "slot-00000001").write_text("an older run's")
        target.prepare()
        target.close()
        assert [path.name for path in folder.iterdir()] == [name]


def test_a_target_has_one_name_however_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "check"
    path.touch()
    (tmp_path / "link").symlink_to("check")
    (tmp_path / "folder").symlink_to(tmp_path)
    names = (path, tmp_path / "link", tmp_path / "folder/link", tmp_path / "folder/check")
    assert {real_path(name) for name in names} == {path}
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(TargetError, match=r"Too many levels of symbolic links: take another"):
        take(tmp_path / "round")


def test_a_name_that_cannot_be_is_told_without_a_traceback(tmp_path: Path) -> None:
    name = str(tmp_path / ("x" * 300))
    for words in (["create", "127.0.0.1:1", name, "1M"], ["gate", name]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code in (2, 3)
        assert "Traceback" not in done.output
    done = CliRunner().invoke(main, ["create", "127.0.0.1:1", name, "1M"])
    assert done.exit_code == 3
    assert "File name too long" in done.output


def test_two_clients_with_one_file(tmp_path: Path) -> None:
    first = take(tmp_path / "target")
    with pytest.raises(TargetError, match="another disk-checker"):
        take(tmp_path / "target")
    first.close()
    take(tmp_path / "target").close()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"size": 4096 * 7}, "needs at least 32k: say that or more as SIZE"),
        ({"size": 500}, "a number without a unit is bytes"),
        ({"size": 8192, "block_size": 16384}, "needs at least 128k"),
        ({"size": 1 << 50}, r"has room for \d+: say \d+[MG] or less"),
        ({"size": 1 << 20, "threads": 100}, "too small"),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(TargetError, match=why):
        take(tmp_path / "target", **changes)
    assert not (tmp_path / "target").exists()


def test_folders_and_files_are_not_confused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="is a folder"):
        take(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="needs one: give a folder"):
        take(tmp_path / "file", workload="rename")
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool/letter").touch()
    with pytest.raises(TargetError, match="holds other files"):
        take(tmp_path / "spool", workload="rename")
    with pytest.raises(TargetError, match="neither a file"):
        take(Path("/dev/null"))
    with pytest.raises(TargetError, match=r"no such folder: make it .`mkdir -p "):
        take(tmp_path / "none/file")


@pytest.mark.parametrize(
    ("text", "size"), [("512", 512), ("64M", 64 << 20), ("2G", 2 << 30), ("1 TiB", 1 << 40)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "12X", "-1", "1.5G"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(TargetError, match="is not a size"):
        parse_size(text)


def test_addresses() -> None:
    assert parse_address("host") == ("host", 5400)
    assert parse_address("10.0.0.1:99") == ("10.0.0.1", 99)
    assert parse_address("[::1]:99") == ("::1", 99)
    assert parse_address("::1") == ("::1", 5400)
    with pytest.raises(ListenerGone, match=r"No listener at a\.\.b:1"):
        connect("a..b:1")
    for text in ("10.0.0.1:99:x", "10.0.0.1:99:1", "[10.0.0.1:9]:99", "host:", ":99", "host:port"):
        with pytest.raises(Refused, match="is not HOST:PORT"):
            parse_address(text)


@pytest.mark.parametrize(
    "words",
    [
        ["create", "127.0.0.1:1", "FILE"],
        ["create", "127.0.0.1:1", "FILE", "much"],
        ["create", "127.0.0.1:1", "FILE", "1M", "--block-size", "1000"],
        ["create", "127.0.0.1:99999", "FILE", "1M"],
        ["nonsense"],
        ["verify", "127.0.0.1:1", "FILE", "--run", "xyz"],
    ],
)
def test_usage_errors_end_with_3(tmp_path: Path, words: list[str]) -> None:
    words = [str(tmp_path / "f") if word == "FILE" else word for word in words]
    assert CliRunner().invoke(main, words).exit_code == 3


def test_no_listener_is_told_with_what_to_do(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["create", "127.0.0.1:1", str(tmp_path / "f"), "1M"])
    assert done.exit_code == 2
    assert "start `disk-checker listen`" in done.output


def test_a_device_that_is_not_there_is_no_new_file() -> None:
    with pytest.raises(TargetError, match="no such device"):
        take(Path("/dev/no-such-disk"))
    assert not Path("/dev/no-such-disk").exists()


@pytest.mark.parametrize("block_size", [0, 1000, 2 << 20])
def test_block_sizes_that_cannot_be(tmp_path: Path, block_size: int) -> None:
    with pytest.raises(TargetError, match="must be a multiple of 512, at most"):
        take(tmp_path / "target", block_size=block_size)
    assert not (tmp_path / "target").exists()


RUN = ["--same-boot", "--power-off", "true", "--write-seconds", "0.1"]


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--listen", "192.0.2.1:1", *RUN], 3, "did not start: 192.0.2.1:1: Cannot assign"),
        (["--program", "/no/such/program", *RUN], 3, "No such file or directory: look at --prog"),
        (["--block-size", "1M", *RUN], 3, "too small: 1 thread with blocks of 1048576"),
        (RUN[1:], 3, "say --victim HOST; or --same-boot"),
        (
            ["--victim", "db1", "--listen", "0.0.0.0:0", *RUN],
            3,
            "db1 can't reach 0.0.0.0: say",
        ),
        (["--victim", "root@127.0.0.1:1", *RUN[1:]], 2, "without a password"),
    ],
    ids=["address of another host", "no program", "too small", "no victim", "no reach", "no ssh"],
)
def test_a_desk_that_cannot_begin_says_why(
    tmp_path: Path, words: list[str], code: int, why: str
) -> None:
    target = str(tmp_path / "target")
    state = str(tmp_path / "state")
    done = CliRunner().invoke(main, ["run", target, "1M", "--state", state, *words])
    assert done.exit_code == code, done.output
    assert why in " ".join(done.output.split()), done.output
    assert "Traceback" not in done.output


def test_a_cut_of_a_run_that_nobody_recorded(tmp_path: Path) -> None:
    with own_listener("127.0.0.1:0", tmp_path / "state") as address:
        done = CliRunner().invoke(main, ["cut", address, "12"])
    assert done.exit_code == 3
    assert "no record of run 0000000000000012" in done.output


@pytest.mark.parametrize("workload", ["overwrite", "rename"])
def test_without_a_listener_nothing_is_left_behind(tmp_path: Path, workload: str) -> None:
    there = tmp_path / "there"
    there.write_bytes(bytes(4096))
    targets = [tmp_path / "new", *([there] if workload == "overwrite" else [])]
    for target in targets:
        words = ["create", "127.0.0.1:1", str(target), "1M", "--workload", workload]
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 2, done.output
        assert "No listener" in done.output
    assert list(tmp_path.iterdir()) == [there]
    assert there.read_bytes() == bytes(4096)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["verify", "127.0.0.1:1", "f", "--json"], 2),
        (["verify", "127.0.0.1:1", "f", "--run", "xyz", "--json"], 3),
        (["gate", "REPORTS", "--json"], 3),
        (["run", "f", "1M", "--json", "--state", "STATE", "--block-size", "1M", *RUN], 3),
    ],
)
def test_machines_are_told_of_errors_as_of_verdicts(
    tmp_path: Path, words: list[str], code: int
) -> None:
    (tmp_path / "odd.json").write_text("{")
    places = {"f": tmp_path / "f", "REPORTS": tmp_path, "STATE": tmp_path / "state"}
    done = CliRunner().invoke(main, [str(places.get(word, word)) for word in words])
    told = json.loads(done.stdout)
    assert done.exit_code == told["exit_code"] == code, done.output
    assert told["verdict"] == "unknown"
    assert told["error"] in told["headline"]
    assert told["error"].splitlines()[0] in " ".join(done.stderr.split())


def test_a_reader_that_goes_away_is_no_verdict(tmp_path: Path) -> None:
    """Click ends with 1 then, which would say that data was lost."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run([CHECKER, "--help"], stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert done.returncode == 2, done.stderr


def test_what_answers_and_is_no_listener(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

        def answer() -> None:
            line, _ = server.accept()
            with line:
                line.sendall(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")
                line.recv(1 << 16)

        thread = threading.Thread(target=answer)
        thread.start()
        done = CliRunner().invoke(main, ["create", address, str(tmp_path / "f"), "1M"])
        thread.join()
    assert done.exit_code == 3
    assert f"What answers at {address} is no listener" in done.output
    assert not (tmp_path / "f").exists()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = CliRunner().invoke(main, ["listen", "--listen", address, "--state", str(tmp_path)])
    assert done.exit_code == 3
    assert f"{address}: Address already in use: something listens there already" in done.output
