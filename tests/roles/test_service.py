"""What the role `service` does on a host: definitions, and what supervisor runs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ansible_module import answer
from tests.support.box import BIN, CHECKOUT
from tests.support.process import wait_for

pytestmark = [pytest.mark.roles]

ROLE = CHECKOUT / "roles/service"


def define(folder: Path, content: str, check: bool = False) -> dict[str, Any]:
    """What the role's module answers for a definition whose service reads `folder/read`."""
    return answer(
        ROLE / "library/service_definition.py",
        folder,
        check,
        path=str(folder / "definition"),
        content=content,
        reads=[str(folder / "read")],
        stand_in="@it@",
        mode="0600",
    )


def test_a_definition_changes_with_what_the_service_reads(tmp_path: Path) -> None:
    definition = tmp_path / "definition"
    told = define(tmp_path, "runs @it@\n", check=True)
    assert told["changed"]
    assert not definition.exists()
    made = define(tmp_path, "runs @it@\n")
    assert made["changed"]
    assert made["diff"]["before"] == ""
    assert made["diff"]["after"] == f"runs {made['fingerprint']}\n" == definition.read_text()
    assert definition.stat().st_mode & 0o777 == 0o600
    assert not define(tmp_path, "runs @it@\n")["changed"]

    (tmp_path / "read").write_text("one")
    told = define(tmp_path, "runs @it@\n", check=True)
    assert told["changed"]
    assert definition.read_text() == made["diff"]["after"] == told["diff"]["before"]
    assert define(tmp_path, "runs @it@\n")["fingerprint"] == told["fingerprint"]
    assert definition.read_text() == told["diff"]["after"] != made["diff"]["after"]
    (tmp_path / "read").write_text("two")
    assert define(tmp_path, "runs @it@\n")["fingerprint"] != told["fingerprint"]
    # Who is handed over to does not have it in the definition, but is told.
    (tmp_path / "read").unlink()
    define(tmp_path, "runs\n")
    (tmp_path / "read").write_text("one")
    again = define(tmp_path, "runs\n")
    assert (again["changed"], again["fingerprint"]) == (False, told["fingerprint"])
    definition.chmod(0o644)
    assert define(tmp_path, "runs\n")["changed"]
    assert definition.stat().st_mode & 0o777 == 0o600


class Supervisor:
    """A running supervisor without programs, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "socket"
        self.config = folder / "supervisord.conf"
        self.program = folder / "one.conf"
        factory = "supervisor.rpcinterface:make_main_rpcinterface"
        self.config.write_text(
            f"[unix_http_server]\nfile = {self.socket}\n"
            f"[supervisord]\nlogfile = {folder}/log\npidfile = {folder}/pid\n"
            f"[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = {factory}\n"
            f"[supervisorctl]\nserverurl = unix://{self.socket}\n"
            f"[include]\nfiles = {folder}/one.conf\n"
        )

    def define(self, command: str) -> None:
        self.program.write_text(
            f"[program:one]\ncommand = {command}\nstartsecs = 0\nstartretries = 0\n"
            "autorestart = true\nredirect_stderr = true\n"
            f"stdout_logfile = {self.folder}/one.log\n"
        )

    def supervise(self) -> tuple[int, str]:
        """Exit code of the role's script, and what it said."""
        run = subprocess.run(
            [sys.executable, ROLE / "files/supervise.py", self.socket, "one"],
            capture_output=True,
            text=True,
            check=False,
        )
        return run.returncode, (run.stdout + run.stderr).strip()

    def ask(self, *words: str) -> str:
        """What supervisor's own command prints."""
        command = [BIN / "supervisorctl", "-c", self.config, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    def pid(self) -> int:
        """Of the program, as soon as it runs."""
        wait_for(lambda: "RUNNING" in self.ask("status", "one"), "the program to run")
        return int(self.ask("pid", "one"))


@pytest.fixture
def supervisor(short_directory: Path) -> Iterator[Supervisor]:
    made = Supervisor(Path(tempfile.mkdtemp(dir=short_directory)))
    running = subprocess.Popen([BIN / "supervisord", "--nodaemon", "-c", made.config])
    try:
        wait_for(made.socket.exists, "supervisor to listen")
        yield made
    finally:
        running.terminate()
        running.wait(30)


def test_supervisor_runs_a_program_as_it_is_defined(supervisor: Supervisor) -> None:
    supervisor.define("sleep 1000")
    assert supervisor.supervise() == (0, "added")
    first = supervisor.pid()
    assert supervisor.supervise() == (0, "")
    assert supervisor.pid() == first

    supervisor.define("sleep 1001")
    assert supervisor.supervise() == (0, "updated")
    second = supervisor.pid()
    assert second != first

    supervisor.ask("stop", "one")
    assert supervisor.supervise() == (0, "started")
    assert supervisor.pid() != second


def test_what_supervisor_can_not_run_is_told(supervisor: Supervisor) -> None:
    supervisor.define("/nowhere/program")
    assert supervisor.supervise() == (0, "added")
    wait_for(lambda: "FATAL" in supervisor.ask("status", "one"), "supervisor to give it up")
    code, said = supervisor.supervise()
    assert code != 0
    assert said == "one: NO_FILE: can't find command '/nowhere/program'"

    supervisor.program.write_text("[program:one]\ncommand = sleep 1\nstartsecs = soon\n")
    code, said = supervisor.supervise()
    assert code != 0
    assert said.startswith("one: CANT_REREAD: ")
    assert str(supervisor.program) in said

    supervisor.define("sleep 1000")
    assert supervisor.supervise() == (0, "updated")
    assert supervisor.pid() > 0


def test_a_supervisor_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, said = Supervisor(tmp_path).supervise()
    assert code != 0
    assert said.startswith(f"{tmp_path}/socket: ")
