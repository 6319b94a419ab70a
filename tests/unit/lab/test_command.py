"""What is typed is what the keeper is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tools.lab import control
from tools.lab.__main__ import main

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "words", ["cut db1-a public", "mend db1-a cluster1", "renew db1-b", "fail db1-a data"]
)
def test_words_come_in_the_order_in_which_they_are_typed(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(control, "ask", lambda _, *each: asked.append(each))
    done = CliRunner().invoke(main, ["--state", str(tmp_path), *words.split()])
    assert done.exit_code == 0, done.output
    assert asked == [tuple(words.split())]
