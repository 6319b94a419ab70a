"""Which tests run one after the other, in one process, when pytest runs in several.

pytest-xdist's own marks for that, ``xdist_group``, do nothing with pytest 9.2: the plugin
writes a group's name to ``Item._nodeid``, which pytest does not read any more.  Ours are
groups of folders and files, which the process that hands tests out sees in their names,
without any help of the others.  They hold with ``--dist loadgroup``, which `make test` gives;
every other way of handing out is left as it is.

What takes minutes is handed out first: else one process would be at it, alone, at the end.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

FOLDERS = {
    "tests/faults/disk_checker/": "loop devices and mounts of the whole machine",
    "tests/lab/": "one lab of virtual machines",
}
"""Folder -> what its tests share."""

FILES = "tests/roles/"
"""A folder of whose files each has hosts that its tests share."""

FIRST = (
    "tests/roles/test_onebox.py",
    "tests/roles/test_mysql.py",
    "tests/faults/disk_checker/",
    "tests/lab/",
    "tests/roles/test_lab_inventory.py",
)
"""Groups that take minutes, the longest first."""


def group_of(nodeid: str) -> str:
    """The group of a test: its folder or file, as said above; else the test itself."""
    if nodeid.startswith(FILES):
        return nodeid.partition("::")[0]
    return next((folder for folder in FOLDERS if nodeid.startswith(folder)), nodeid)


class Scheduling(LoadScopeScheduling):
    """Hands out whole groups; those of `FIRST`, then those of most tests."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        for group in FIRST:
            if group in self.workqueue:
                self.workqueue.move_to_end(group, last=False)
                break
        super()._assign_work_unit(node)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Let `Scheduling` hand the tests out, if groups are asked for."""
    return Scheduling(config, log) if config.getoption("dist") == "loadgroup" else None
