"""Slaves: they follow, semi-synchronously where asked; their backups are tried, and restored."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.process import free_ports, wait_for
from tests.support.slaves import DELAY_S, ThreeServers

LAG_S = 3
"""What more it may be behind to count as one that has caught up."""

SUM = "CHECKSUM TABLE lj_cluster1.posts"

pytestmark = [pytest.mark.roles, pytest.mark.timeout(600)]


@contextmanager
def small(folder: Path) -> Iterator[Path]:
    """A file system of 16 MB there."""
    if os.geteuid() != 0:
        pytest.fail(
            "a small file system is mounted as root: run the tests as root, or -m 'not roles'"
        )
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def site(short_directory: Path) -> Iterator[ThreeServers]:
    made = ThreeServers(short_directory / "backup", free_ports(3))
    made.prepare()
    try:
        run = made.play(made.root / "servers.json")
        assert run.returncode == 0, run.stdout + run.stderr
        rows = "INSERT INTO lj_cluster1.posts SELECT seq, SHA2(seq, 256) FROM seq_1_to_2000"
        made.ask("one", "CREATE TABLE lj_cluster1.posts (id INT PRIMARY KEY, text TEXT)", rows)
        made.together()
        yield made
    finally:
        made.play("playbooks/down.yml")
        shutil.rmtree(made.root, ignore_errors=True)


def test_a_commit_waits_until_a_slave_has_it(site: ThreeServers) -> None:
    for source in ("one", "its-slave"):
        assert site.status(source, "Rpl_semi_sync_master_clients") == 1
    had = site.status("one", "Rpl_semi_sync_master_yes_tx")
    alone = site.status("one", "Rpl_semi_sync_master_no_tx")  # before there was a slave
    site.ask("one", "INSERT INTO posts VALUES (-1, 'on two servers')")
    assert site.status("one", "Rpl_semi_sync_master_yes_tx") == had + 1
    assert site.status("one", "Rpl_semi_sync_master_no_tx") == alone
    # Nobody answers: the commit waits.
    site.ask("its-slave", "STOP SLAVE IO_THREAD")
    waiting = site.begin("one", "INSERT INTO posts VALUES (-2, 'waits')")
    wait_for(
        lambda: site.status("one", "Rpl_semi_sync_master_wait_sessions") == 1,
        "the commit to wait for a slave",
    )
    assert waiting.poll() is None
    site.ask("its-slave", "START SLAVE IO_THREAD")
    assert waiting.wait(timeout=20) == 0
    assert site.status("one", "Rpl_semi_sync_master_no_tx") == alone
    site.together()
    assert site.ask("its-slave", "SELECT text FROM posts WHERE id < 0") == [
        "waits",
        "on two servers",
    ]


def test_a_slave_of_a_slave_stays_behind_on_purpose(site: ThreeServers) -> None:
    site.ask("one", "INSERT INTO posts VALUES (-3, 'a mistake')")
    began = time.monotonic()
    site.together()
    site.together("far-slave")
    # Times of events are in whole seconds.
    assert time.monotonic() - began > DELAY_S - 1
    assert site.ask("far-slave", "SELECT text FROM posts WHERE id = -3") == ["a mistake"]
    assert site.ask("far-slave", "SELECT @@read_only") == ["1"]
    assert site.ask("far-slave", SUM) == site.ask("one", SUM)


def test_a_slave_has_caught_up_while_its_source_is_written_to(site: ThreeServers) -> None:
    words = ("--limit", "far-slave", "-e", f"mysql_replication_lag_s={LAG_S}")

    def behind_s() -> int:
        return int(site.slave("far-slave")["Seconds_Behind_Master"])

    site.together("far-slave")
    with site.written_to():
        with site.held("far-slave"):
            wait_for(lambda: behind_s() > DELAY_S + LAG_S, "the slave to fall behind")
            run = site.begin_play(site.root / "follows.json", *words)
            assert run.stdout is not None
            said = ""
            while "FAILED - RETRYING" not in said:
                line = run.stdout.readline()
                assert line, said
                said += line
        try:
            out, error = run.communicate(timeout=300)
        finally:
            run.kill()
        assert run.returncode == 0, out + error
        assert behind_s() > 0


def test_a_slave_follows_by_gtid(site: ThreeServers) -> None:
    words = (site.root / "follow.json", "--limit", "far-slave")
    site.together("far-slave")
    file, position = site.ask("its-slave", "SHOW MASTER STATUS")[0].split("\t")[:2]
    by_position = f"master_use_gtid = no, master_log_file = '{file}', master_log_pos = {position}"
    site.ask("far-slave", "STOP SLAVE", f"CHANGE MASTER TO {by_position}", "START SLAVE")
    told = site.play(*words, "--check")
    assert re.search(r"far-slave .* changed=[1-9]", told.stdout), told.stdout
    assert site.slave("far-slave")["Using_Gtid"] == "No"
    mended = site.play(*words)
    assert mended.returncode == 0, mended.stdout
    assert site.slave("far-slave")["Using_Gtid"] == "Slave_Pos"
    assert "changed=0" in site.play(*words).stdout
    site.ask("one", "INSERT INTO posts VALUES (-4, 'by its number')")
    site.together("far-slave")
    assert site.ask("far-slave", "SELECT text FROM posts WHERE id = -4") == ["by its number"]

    # Who does not know where it is would begin with everything.
    (had,) = site.ask("far-slave", "STOP SLAVE", "SELECT @@gtid_slave_pos")
    lost = f"CHANGE MASTER TO {by_position}", "RESET MASTER", "SET GLOBAL gtid_slave_pos = ''"
    site.ask("far-slave", *lost)
    refused = site.play(*words)
    assert refused.returncode != 0
    assert "far-slave: the slave follows by a file and a position, and has no gtid_slave_pos" in (
        " ".join(refused.stdout.split())
    )
    site.ask("far-slave", f"SET GLOBAL gtid_slave_pos = '{had}'")
    mended = site.play(*words)
    assert mended.returncode == 0, mended.stdout
    site.together("far-slave")
    assert site.ask("far-slave", SUM) == site.ask("one", SUM)


def test_what_was_lost_comes_back_and_follows_on(site: ThreeServers) -> None:
    told = site.backup("--check")
    assert told.returncode == 0, told.stdout
    assert site.backups == []

    made = site.backup()
    assert made.returncode == 0, made.stdout
    assert "a server came up on it and read 1 tables" in made.stdout
    (backup,) = site.backups
    assert sorted(path.name for path in backup.parent.iterdir() if path.is_dir()) == [backup.name]
    (then,) = site.ask("its-slave", SUM)
    assert (backup / "lj-checksums").read_text() == then + "\n"

    # What happens afterwards is in the source's binary log; the slave's disk is ruined.
    site.ask("one", "DELETE FROM lj_cluster1.posts WHERE id % 3 = 0")
    site.together()
    (before,) = site.ask("its-slave", "SELECT @@gtid_slave_pos")
    for table in site.datadir.glob("lj_cluster1/posts.*"):
        table.unlink()
    restored = site.restore()
    assert restored.returncode == 0, restored.stdout
    assert "1 tables are what they were" in restored.stdout
    site.together()
    assert site.ask("its-slave", SUM) == site.ask("one", SUM) != [then]
    assert site.ask("its-slave", "SELECT @@gtid_slave_pos") == [before]
    (kept,) = site.datadir.parent.glob("data.before-*")
    assert (kept / "ibdata1").exists()
    shutil.rmtree(kept)

    site.ask("one", "INSERT INTO lj_cluster1.posts VALUES (9999, 'after')")
    site.together()
    assert site.ask("its-slave", "SELECT text FROM lj_cluster1.posts WHERE id = 9999") == ["after"]


def test_what_can_not_be_is_refused(site: ThreeServers) -> None:
    pid = site.ask("its-slave", "SELECT @@server_uid")
    source = site.backup("--limit", "one")
    assert source.returncode != 0
    assert "None of these hosts (one) has a slave of cluster1" in " ".join(source.stdout.split())
    everywhere = site.play("playbooks/restore.yml", "-e", "server=cluster1")
    several = site.restore("--limit", "its-slave,far-slave")
    for refused in (everywhere, several):
        assert refused.returncode != 0
        assert "Add -e server=cluster1 --limit HOST, which now is" in refused.stdout
    absent = site.restore("-e", "mysql_backup_name=20200101T000000Z")
    assert absent.returncode != 0
    assert "has no backup 20200101T000000Z: copy one there" in absent.stdout
    assert site.ask("its-slave", "SELECT @@server_uid") == pid
    assert not list(site.datadir.parent.glob("data.*"))


def test_a_backup_that_does_not_come_back_is_none(site: ThreeServers) -> None:
    backups = site.backups
    folder = site.root / "its-slave/backups/cluster1"
    # A table of the slave alone, whose pages are copied as they are; no server can read them.
    site.ask(
        "its-slave",
        "SET SESSION sql_log_bin = 0",
        "CREATE TABLE broken (id INT PRIMARY KEY) ENGINE=Aria",
        "INSERT INTO broken SELECT seq FROM seq_1_to_5000",
        "FLUSH TABLES broken",
    )
    pages = site.datadir / "lj_cluster1/broken.MAD"
    good = pages.read_bytes()
    pages.write_bytes(good[:8192] + bytes(8192) + good[16384:])
    failed = site.backup()
    assert failed.returncode != 0, failed.stdout
    assert f"see {folder}/last.log" in failed.stdout
    assert site.backups == backups
    assert not [*folder.glob(".part"), *folder.glob(".trial")]
    assert site.state()["trouble"].endswith(
        f"Z: tables of the copy are damaged: see {folder}/last.log"
    )
    site.ask("its-slave", "SET SESSION sql_log_bin = 0", "DROP TABLE broken")
    made = site.backup()
    assert made.returncode == 0, made.stdout
    state = site.state()
    assert state["trouble"] == ""
    assert (
        state["backup"].replace("-", "").replace(" ", "T").replace(":", "")
        == site.backups[-1].name[:13]
    )


def test_a_backup_that_has_no_room_is_not_begun(site: ThreeServers) -> None:
    backups = site.backups
    with small(site.root / "its-slave/small") as folder:
        failed = site.backup("-e", f"mysql_backup_dir={folder}")
        told = " ".join(failed.stdout.split())
        assert failed.returncode != 0
        assert re.search(
            rf"no room: a backup and its trial take \d+ MB, and {folder}/cluster1 has \d+ MB", told
        )
        assert "no room" in (folder / "cluster1/failed").read_text()
    assert site.backups == backups


def test_a_source_is_restored_over_on_purpose_alone(site: ThreeServers) -> None:
    (site.root / "one/backups/cluster1").mkdir(parents=True)
    backup = shutil.copytree(
        site.backups[-1], site.root / "one/backups/cluster1" / site.backups[-1].name
    )
    had = site.ask("one", SUM, "SELECT @@gtid_binlog_pos")
    refused = site.restore("--limit", "one")
    told = " ".join(refused.stdout.split())
    assert refused.returncode != 0
    assert "cluster1 is no slave here (`replica: true`)" in told
    assert "-e mysql_backup_over_source=true; nothing was changed" in told
    assert site.ask("one", SUM, "SELECT @@gtid_binlog_pos") == had

    site.ask("one", "INSERT INTO lj_cluster1.posts VALUES (-9, 'lost')")
    restored = site.restore("--limit", "one", "-e", "mysql_backup_over_source=true")
    assert restored.returncode == 0, restored.stdout
    assert site.ask("one", SUM) == [(backup / "lj-checksums").read_text().rstrip()]
    # It goes on with numbers that nobody has had.
    (position,) = site.ask("one", "SELECT @@gtid_slave_pos")
    site.ask("one", "DELETE FROM posts WHERE id = 1")
    (now,) = site.ask("one", "SELECT @@gtid_binlog_pos")
    assert int(now.split("-")[2]) == int(position.split("-")[2]) + 1
