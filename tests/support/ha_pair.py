"""A pair and its slave in a lab, and the proof that they lose nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.lab import play, said
from tests.support.process import wait_for
from tools.lab import control
from tools.lab.ledger import TABLE, longest_gap_s, lost, newest, read

HOSTS = ("db1-a", "db1-b")
SLAVE = "db1-s"
RESOURCE = "cluster1"
DATABASE = "lj_cluster1"
FLOATING = "10.77.0.10"
SOURCE = "db1-m"
SOURCE_ADDRESS = "10.77.0.20"
"""What the pair follows in the scenario ha_slave."""
MOUNT = f"/srv/{RESOURCE}"
SOCKET = "/var/lib/lj/run/mysql-cluster1.sock"
PATIENCE_S = 900.0
"""Emulated hosts on a busy machine: how long anything may take before the test gives up."""

SILENCE_S = 3.0


@dataclass
class Pair:
    """The hosts of a scenario with a pair; what is asked of them is asked by ssh."""

    state: control.State
    source: str | None = None
    """The host that the pair follows, as in the scenario ha_slave; None: the pair takes commits."""

    def on(self, host: str, words: str) -> str:
        """What a command prints there.

        Raises:
            AssertionError: it failed; the message holds what it said.
        """
        return said(self.state, host, words)

    def maybe(self, host: str, words: str) -> str:
        """The same, of a host that may be down: then nothing."""
        try:
            return control.ssh(self.state, host, words, seconds=60).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def sql(self, host: str, statement: str) -> str:
        """What the server on a host answers, without the names of the columns."""
        client = f"mariadb --no-defaults --batch --skip-column-names --socket {SOCKET}"
        return self.on(host, f'{client} --execute "{statement}"')

    def holders(self) -> list[str]:
        """Hosts that have the floating address."""
        return [host for host in HOSTS if self.holds(host)]

    def holds(self, host: str) -> bool:
        """Whether a host has the floating address."""
        return f" {FLOATING}/" in self.maybe(host, "ip -o -4 address show")

    def primaries(self) -> list[str]:
        """Hosts whose side of the mirrored disk is primary."""
        words = f"drbdadm role {RESOURCE}"
        return [host for host in HOSTS if self.maybe(host, words).startswith("Primary")]

    def is_whole(self) -> bool:
        """Whether both sides are up to date, both hosts hear each other, and one has it all."""
        for host in HOSTS:
            peer = HOSTS[1 - HOSTS.index(host)]
            told = self.maybe(
                host, f"drbdadm dstate {RESOURCE}; cl_status nodestatus {peer} 2>/dev/null"
            )
            if told.split() != ["UpToDate/UpToDate", "active"]:
                return False
        return len(self.holders()) == 1

    def wait_until_whole(self) -> str:
        """Wait for that; returns the host that has the group."""
        wait_for(self.is_whole, "the pair to be whole", timeout_s=PATIENCE_S, every_s=2)
        assert self.primaries() == self.holders()
        return self.holders()[0]

    def differ(self, holder: str) -> int:
        """Bytes that differ between both sides, after a comparison by the timer's unit."""
        # It ends when all blocks were compared, or fails.
        unit = f"lj-drbd-verify-{RESOURCE}.service"
        run = control.ssh(self.state, holder, f"systemctl start {unit}", seconds=PATIENCE_S)
        assert run.returncode == 0, self.on(holder, f"journalctl --unit {unit} --lines 20")
        counted = "awk '/oos:/ {sub(/.*oos:/, \"\"); print $1}' /proc/drbd"
        return int(self.on(holder, counted)) * 1024

    def play(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run one of the playbooks on the lab."""
        return play(self.state, "ha_slave" if self.source else "ha_pair", name, *words)

    @property
    def secrets(self) -> Path:
        """Passwords that the roles made."""
        return self.state.folder / "secrets/mysql"

    def _ledger(self, *words: str) -> list[str]:
        host = SOURCE_ADDRESS if self.source else FLOATING
        account = ["--host", host, "--user", "lj_schema", "--database", DATABASE]
        account += ["--password-file", str(self.secrets / "cluster1-schema")]
        return control.inside(
            self.state, [sys.executable, "-m", "tools.lab.ledger", *words, *account]
        )

    @contextmanager
    def commits(self, file: Path, pause_s: float = 0.02) -> Iterator[Ledger]:
        """Commit while the block runs, to the pair or its source; then prove that none is lost.

        Args:
            file: the ledger's.
            pause_s: between commits, where they would take an emulated host's time from a playbook.
        """
        server = self.source or self.holders()[0]
        table = f"CREATE TABLE IF NOT EXISTS {TABLE} (number BIGINT PRIMARY KEY)"
        self.sql(server, f"USE {DATABASE}; {table}")
        # What was sent and never answered has numbers too, and so has an earlier ledger.
        there = self.sql(server, f"SELECT COALESCE(MAX(number), 0) FROM {DATABASE}.{TABLE}")
        first = int(there) + 1_000_000
        words = self._ledger("write", str(file), "--first", str(first))
        if self.source:
            # A container takes commits faster than emulated hosts can follow.
            pause_s = 0.5
        words += ["--pause", str(pause_s)]
        process = subprocess.Popen(words, cwd=control.CHECKOUT)
        ledger = Ledger(file)
        try:
            ledger.wait_for_next()
            yield ledger
            ledger.wait_for_next()
        finally:
            process.terminate()
            process.wait(60)
        self.prove(file)

    def prove(self, file: Path) -> None:
        """Nothing that was acknowledged is lost, where it was committed and on all that follow."""
        holder = self.wait_until_whole()
        entries = read(file)
        done = subprocess.run(
            self._ledger("rows"), cwd=control.CHECKOUT, capture_output=True, text=True, check=True
        )
        assert lost(entries, json.loads(done.stdout)) == []
        sums = self.sums(self.source or holder)
        for slave in (holder, SLAVE) if self.source else (SLAVE,):
            self.catch_up(slave, int(sums.split()[0]))
            assert self.sums(slave) == sums
            self.follows(slave)
        assert self.sql(holder, f"CHECK TABLE {DATABASE}.{TABLE} EXTENDED").endswith("status\tOK")
        assert "EXT4-fs error" not in self.on(holder, "dmesg")

    def sums(self, host: str) -> str:
        """How many commits the server on a host has, and the sum of their numbers."""
        return self.sql(host, f"SELECT COUNT(*), SUM(number) FROM {DATABASE}.{TABLE}")

    def catch_up(self, host: str, wanted: int) -> None:
        """Wait until the server on a host has so many commits."""
        wait_for(
            lambda: int(self.sums(host).split()[0]) >= wanted,
            f"{host} to have {wanted} commits",
            timeout_s=PATIENCE_S,
            every_s=1,
        )

    def follows(self, host: str) -> None:
        """The server on a host replicates; nothing has stopped it."""
        client = f"mariadb --no-defaults --batch --socket {SOCKET}"
        status = self.on(host, f"{client} --execute 'SHOW SLAVE STATUS\\G'")
        assert "Slave_SQL_Running: Yes" in status
        assert "Slave_IO_Running: Yes" in status


@dataclass(frozen=True)
class Ledger:
    """The ledger of commits that go on."""

    file: Path

    def wait_for_next(self) -> float:
        """Wait for a commit that began after now; returns when it was acknowledged."""
        now = time.time()
        wait_for(
            lambda: sum(entry.at_s > now for entry in newest(self.file)[-2:]) == 2,
            "a commit to be acknowledged",
            timeout_s=PATIENCE_S,
            every_s=0.1,
        )
        return newest(self.file)[-1].at_s

    def wait_for_silence(self) -> None:
        """Wait until nothing was acknowledged for some seconds: more than a commit ever takes."""
        wait_for(
            lambda: time.time() - newest(self.file)[-1].at_s > SILENCE_S,
            "commits to stop",
            timeout_s=PATIENCE_S,
            every_s=0.1,
        )

    def gap_s(self, since_s: float) -> float:
        """The longest time without an acknowledged commit since then."""
        return longest_gap_s(read(self.file), since_s)


def peer_of(host: str) -> str:
    """The other host of the pair."""
    return HOSTS[1 - HOSTS.index(host)]


def moved(pair: Pair, ledger: Ledger, host: str) -> float:
    """Wait until commits have stopped and go on at the peer of `host`; when they did.

    Nobody is asked while they stand still: a login costs an emulated host seconds, which it needs.
    """
    peer = peer_of(host)
    ends = time.monotonic() + PATIENCE_S
    while True:
        ledger.wait_for_silence()
        at_s = ledger.wait_for_next()
        if pair.holds(peer):
            assert pair.holders() == [peer]
            return at_s
        assert time.monotonic() < ends, f"{peer} did not take over"
