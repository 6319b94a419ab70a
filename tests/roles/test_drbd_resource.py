"""What the role drbd writes down; that it holds in a kernel is shown in the lab."""

from __future__ import annotations

import hashlib
import re

import pytest

from tests.support.box import CHECKOUT

pytestmark = [pytest.mark.roles]


@pytest.mark.parametrize("option", ["csums-alg", "verify-alg"])
def test_blocks_are_compared_by_a_digest_that_sees_every_change(option: str) -> None:
    """By a CRC, blocks that carry one of themselves are all the same: ext4 has such blocks."""
    template = (CHECKOUT / "roles/drbd/templates/resource.res.j2").read_text()
    (name,) = re.findall(rf"^ *{option} (\S+);$", template, re.MULTILINE)
    assert hashlib.new(name).digest_size >= 20
