"""Our liar under the whole chain: kernel, loop device, command line, listener.

Once each here; `make disk-cycles` repeats them, and test_liar_in_memory.py has a hundred of
each without a kernel.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.disk_cycles import KINDS
from tests.support.disk_rig import Checker

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("liar")])
def test_each_fault_through_the_kernel(tmp_path: Path, kind: str) -> None:
    with Checker(tmp_path) as checker:
        report = KINDS[kind].cycle(tmp_path, checker)
    assert KINDS[kind].right(report), report
