"""The benchmark harness: medians, ratios, turns, and a page that keeps other sections."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

import bench.__main__
from bench.__main__ import module_names
from bench.harness import Comparison, Contender, Load, Subject, compare, section, write_page
from tests.support.process import spawn

pytestmark = pytest.mark.unit


def comparison(turns: list[str], figures: dict[str, list[float]], **load: str) -> Comparison:
    """Contenders that give prepared figures, and note when it is their turn."""

    @contextmanager
    def start(name: str) -> Iterator[Subject]:
        yield Subject(name)

    def run(subject: Subject) -> float:
        turns.append(subject.value)
        return figures[subject.value].pop(0)

    return Comparison(
        "title",
        ours=Contender("ours", "1", lambda: start("ours")),
        peer=Contender("peer", "2", lambda: start("peer")),
        loads=[Load("load", "things/s", run, **load)],  # type: ignore[arg-type]
        goal="win",
        notes=["a note"],
    )


def test_medians_ratios_and_turns() -> None:
    turns: list[str] = []
    figures = {"ours": [0.0, 10.0, 30.0, 20.0], "peer": [0.0, 10.0, 10.0, 90.0]}
    (outcome,) = compare(comparison(turns, figures), rounds=3)
    assert outcome.ours.median == 20.0
    assert outcome.ratio == 2.0
    assert turns == ["ours", "peer", "ours", "peer", "peer", "ours", "ours", "peer"]


def test_where_less_is_better_the_ratio_turns_round() -> None:
    figures = {"ours": [0.0, 2.0], "peer": [0.0, 6.0]}
    (outcome,) = compare(comparison([], figures, better="lower"), rounds=1)
    assert outcome.ratio == pytest.approx(3.0)


def test_the_page_keeps_the_sections_of_other_modules(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "benchmarks.md"
    figures = {"ours": [0.0, 1500.0], "peer": [0.0, 1000.0]}
    compared = comparison([], figures)
    text = section("one", "One", [(compared, compare(compared, 1))], "python -m bench one")
    write_page({"one": text, "two": "<!-- two -->\nold\n<!-- end of two -->"}, page)
    write_page({"two": "<!-- two -->\nnew\n<!-- end of two -->"}, page)
    written = page.read_text()
    assert "| load | things/s | 1,500 (1,500–1,500) | 1,000 (1,000–1,000) | **1.50** |" in written
    assert "python -m bench one" in written
    assert "new" in written
    assert "old" not in written


def test_the_modules_are_found() -> None:
    assert "memcached" in module_names()
    assert "harness" not in module_names()


ENDLESS = """
import sys
import bench
bench.__path__.append(sys.argv[1])
from bench.__main__ import main
main(["endless", "--quick"])
"""
MODULE = """
import threading
from pathlib import Path

TITLE = "Endless"
HELD = Path(__file__).with_name("held")

def comparisons(quick):
    HELD.touch()
    try:
        threading.Event().wait()
        yield
    finally:
        HELD.unlink()
"""


def test_what_a_run_holds_is_given_back_when_it_is_ended(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(MODULE)
    held = tmp_path / "held"
    argv = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    with spawn(argv, tmp_path / "log", ready=held.exists) as run:
        run.process.terminate()
        assert run.process.wait(20) == 128 + signal.SIGTERM
    assert not held.exists()


def test_what_was_measured_before_something_failed_is_on_the_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measured(name: str, quick: bool) -> str:
        if name == "perlbal":
            raise RuntimeError("met errors")
        return f"section of {name}"

    written: list[dict[str, str]] = []
    monkeypatch.setattr(bench.__main__, "_measured", measured)
    monkeypatch.setattr(bench.__main__, "write_page", written.append)
    done = CliRunner().invoke(bench.__main__.main, ["memcached", "perlbal", "gearman"])
    assert (str(done.exception), written) == (
        "met errors",
        [{"memcached": "section of memcached"}],
    )
