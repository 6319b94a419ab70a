"""When a comparison of both sides of a disk counts as done.  No kernel is needed."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.box import CHECKOUT
from tests.support.scripts import loaded

pytestmark = pytest.mark.unit

DONE = "6,812,5000,-;block drbd1: Online verify done (total 9 sec; paused 0 sec; 999 K/sec)\n"
LOST = "6,812,5000,-;block drbd1: Online Verify reached sector 4096\n"


class Kernel:
    """What the kernel shows, and what the program makes of it.

    Args:
        folder: for what is read and written.
        monkeypatch: for where that is.
        first: the state of the connection before the program begins a comparison.
        steps: what comes next, each time that it has waited: lines of the log, and a state;
            none: a comparison can't be begun.
    """

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, first: str, *steps: tuple[str, ...]
    ) -> None:
        self._steps = list(steps)
        self._states = folder / "drbd"
        self._log = folder / "kmsg"
        # An earlier comparison is in the log still.
        self._log.write_text(DONE)
        self.begun: list[str] = []
        self.stamp = folder / "lj-drbd-verify-cluster1"
        self._show(first)
        self._program = loaded("roles/drbd/files/lj-drbd-verify")
        monkeypatch.setattr(sys, "argv", ["lj-drbd-verify", "cluster1"])
        for name, value in {
            "STATES": self._states,
            "LOG": self._log,
            "STAMPS": folder,
            "subprocess": SimpleNamespace(run=self._drbdadm),
            "time": SimpleNamespace(sleep=self._step),
        }.items():
            monkeypatch.setattr(self._program, name, value)

    def _show(self, state: str) -> None:
        # Another device of the host is compared all the time.
        self._states.write_text(
            "version: 8.4.11 (api:1/proto:86-101)\n"
            " 0: cs:VerifyS ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n"
            f" 1: cs:{state} ro:Primary/Secondary ds:UpToDate/UpToDate C r-----\n"
        )

    def _step(self, _: float) -> None:
        assert self._steps, "it waits for what never comes"
        *lines, state = self._steps.pop(0)
        with self._log.open("a") as file:
            file.writelines(lines)
        self._show(state)

    def _drbdadm(self, words: list[str], **_: Any) -> SimpleNamespace:
        if words == ["drbdadm", "sh-minor", "cluster1"]:
            return SimpleNamespace(stdout="1\n")
        self.begun.append(" ".join(words) + " when " + self._states.read_text().split()[-5])
        if self._steps:
            self._show("VerifyS")
        return SimpleNamespace(returncode=0 if self._steps else 1)

    def run(self) -> str:
        """What the program says as it fails; nothing where it does not."""
        try:
            self._program.main()
        except SystemExit as ended:
            return str(ended.code)
        assert not self._steps, "it did not wait for the end"
        return ""


def test_it_is_done_when_the_kernel_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(tmp_path, monkeypatch, "Connected", ("VerifyS",), (DONE, "Connected"))
    assert kernel.run() == ""
    assert kernel.stamp.exists()
    # From the first block: DRBD goes on where one was broken off.
    assert kernel.begun == ["drbdadm -- --start=0 verify cluster1 when cs:Connected"]


@pytest.mark.parametrize("after", ["Connected", "WFConnection", "SyncSource"])
def test_one_that_was_broken_off_does_not_count(
    after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(tmp_path, monkeypatch, "Connected", ("VerifyS",), (LOST, after))
    said = kernel.run()
    assert f"not all blocks were compared (the connection is {after} now)" in said
    assert "systemctl start lj-drbd-verify-cluster1" in said
    assert not kernel.stamp.exists()


def test_one_that_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(tmp_path, monkeypatch, "WFConnection")
    assert "(the connection is WFConnection now)" in kernel.run()
    assert not kernel.stamp.exists()


def test_that_of_another_device_is_none_of_its_business(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = DONE.replace("drbd1", "drbd11")
    kernel = Kernel(tmp_path, monkeypatch, "Connected", (other, "VerifyS"), (LOST, "Connected"))
    assert "not all blocks were compared" in kernel.run()
    assert not kernel.stamp.exists()


def test_one_that_runs_already_is_waited_for_and_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(
        *(tmp_path, monkeypatch, "VerifyT"),
        *[("VerifyT",), (DONE, "Connected"), (LOST, "Connected")],
    )
    assert "not all blocks were compared" in kernel.run()
    assert [each.split(" when ")[1] for each in kernel.begun] == ["cs:Connected"]
    assert not kernel.stamp.exists()


def test_the_unit_waits_as_long_as_it_takes() -> None:
    unit = (CHECKOUT / "roles/drbd/templates/verify.service.j2").read_text()
    assert "Type=oneshot\n" in unit
    assert "TimeoutStartSec=infinity\n" in unit
    assert "touch" not in unit
    (started,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert started.endswith(" /usr/local/sbin/lj-drbd-verify {{ drbd_resource }}")
