"""The guide's table of parameters is the program's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lj_services.perlbal.tunables import table

pytestmark = pytest.mark.unit

PAGE = Path(__file__).parents[3] / "docs" / "perlbal.md"


def test_the_guide_has_the_table() -> None:
    found = re.search(
        r"<!-- parameters -->\n(.*?)\n<!-- end of parameters -->", PAGE.read_text(), re.DOTALL
    )
    assert found is not None
    assert found[1] == table(), "python -m lj_services.perlbal.tunables prints what belongs there"
