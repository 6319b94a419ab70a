"""What `make up` says when Python will not do, before it makes anything."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

TOOL = Path(__file__).parents[3] / "tools" / "venv.sh"
OLD = """#!/bin/sh
# Says that it is 3.9, to whoever asks.
case "$1" in
  --version) echo "Python 3.9.2" ;;
  -c) case "$2" in *version_info*) exit 1 ;; esac ;;
esac
"""
WITHOUT_VENV = """#!/bin/sh
case "$2" in *ensurepip*) exit 1 ;; esac
"""


def make(tmp_path: Path, python: str) -> tuple[int, str]:
    """Run the tool with `python`; its exit code and what it said."""
    before = sorted(path.name for path in tmp_path.iterdir())
    made = subprocess.run(
        ["bash", TOOL, tmp_path / "venv", "control"],
        env={**os.environ, "PYTHON": python, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is made"
    return made.returncode, made.stderr


def script(tmp_path: Path, text: str) -> str:
    program = tmp_path / "python"
    program.write_text(text)
    program.chmod(0o755)
    return str(program)


def test_a_python_that_is_too_old(tmp_path: Path) -> None:
    code, said = make(tmp_path, script(tmp_path, OLD))
    assert code == 1
    assert "is Python 3.9.2; the kit needs Python 3.11 or newer." in said
    assert "make up PYTHON=/path/to/python3.11" in said


def test_a_python_without_venv(tmp_path: Path) -> None:
    code, said = make(tmp_path, script(tmp_path, WITHOUT_VENV))
    assert code == 1
    assert "it lacks venv or ensurepip" in said
    assert "apt install python3-venv" in said


def test_no_python(tmp_path: Path) -> None:
    assert shutil.which("python-that-is-not-there") is None
    code, said = make(tmp_path, "python-that-is-not-there")
    assert code == 1
    assert "There is no python-that-is-not-there here. Install Python 3.11" in said
