"""Which tests run one after the other, in one process, when pytest runs in several.

pytest-xdist's own marks for that, ``xdist_group``, do nothing with pytest 9.2: the plugin
writes a group's name to ``Item._nodeid``, which pytest does not read any more.  Ours are
groups of folders, which the process that hands tests out sees in their names, without any
help of the others.  They hold with ``--dist loadgroup``, which `make test` gives; every other
way of handing out is left as it is.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

FOLDERS = {
    "tests/faults/disk_checker/": "loop devices and mounts of the whole machine",
    "tests/lab/": "one lab of virtual machines",
    "tests/roles/": "one converged box, and the wheels that it is made of",
}
"""Folder -> what its tests share."""


def group_of(nodeid: str) -> str:
    """The group of a test: its folder, if that is one of `FOLDERS`; else the test itself."""
    return next((folder for folder in FOLDERS if nodeid.startswith(folder)), nodeid)


class Scheduling(LoadScopeScheduling):
    """Hands out whole groups."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Let `Scheduling` hand the tests out, if groups are asked for."""
    return Scheduling(config, log) if config.getoption("dist") == "loadgroup" else None
