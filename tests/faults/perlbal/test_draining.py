"""A node that is taken out while something is done to it, by somebody who may die over it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.perlbal import LJ, Balancer, Node, echoing, get, proxy, starting
from tests.support.process import wait_for

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Node, Node]]:
    with echoing("one") as one, echoing("two") as two:
        yield one, two


@pytest.fixture(scope="module")
def balancer(
    tmp_path_factory: pytest.TempPathFactory, nodes: tuple[Node, Node]
) -> Iterator[Balancer]:
    with starting(tmp_path_factory.mktemp("draining")) as start:
        config = proxy(*(node.address for node in nodes))
        yield start(config, "ours", "--workers", "2")


def drain(balancer: Balancer, node: Node, lease_s: int, *words: str | Path) -> list[str | Path]:
    """The command that keeps a node out while a program runs."""
    console = f"127.0.0.1:{balancer.console}"
    argv = [LJ, "perlbal", "drain", "--server", console, "--pool", "p", "--lease", str(lease_s)]
    return [*argv, node.address, *words]


def out(balancer: Balancer, node: Node) -> bool:
    """Whether a node is left out."""
    lines = [line.split() for line in balancer.command("show pool p")]
    return [node.address, "drained"] in [line[:2] for line in lines]


def asked(balancer: Balancer) -> set[str]:
    """Who answers."""
    return {get(balancer.port).json["node"] for _ in range(40)}


def left_s(balancer: Balancer) -> int:
    """For how many seconds a node is left out yet."""
    return int(balancer.command("show pool p")[-1].split()[-1])


def until(file: Path) -> str:
    """A program that says that it runs, and goes on until a file is there."""
    return f"touch {file}.runs; until [ -e {file} ]; do sleep 0.05; done"


def test_nobody_is_sent_to_a_node_while_a_program_runs(
    balancer: Balancer, nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    one, two = nodes
    go, runs = tmp_path / "go", tmp_path / "go.runs"
    argv = drain(balancer, one, 3, "sh", "-c", f"{until(go)}; exit 7")
    with subprocess.Popen(argv) as running:
        wait_for(runs.exists, "the program")
        assert out(balancer, one)
        assert asked(balancer) == {two.name}
        seen = [left_s(balancer)]

        def renewed() -> bool:
            seen.append(left_s(balancer))
            return seen[-1] > seen[-2]

        wait_for(renewed, "the lease to be renewed")
        go.touch()
        assert running.wait(20) == 7
    assert not out(balancer, one)
    wait_for(lambda: asked(balancer) == {"one", "two"}, "the node to be asked again")


def test_a_node_is_in_again_when_who_took_it_out_is_killed(
    balancer: Balancer, nodes: tuple[Node, Node], tmp_path: Path
) -> None:
    one, _two = nodes
    argv = drain(balancer, one, 3, "sh", "-c", until(tmp_path / "go"))
    with subprocess.Popen(argv, start_new_session=True) as running:
        wait_for((tmp_path / "go.runs").exists, "the program")
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(20)
        assert out(balancer, one)
        wait_for(lambda: not out(balancer, one), "the lease to end")
    wait_for(lambda: asked(balancer) == {"one", "two"}, "the node to be asked again")


def test_a_worker_that_comes_later_leaves_it_out_as_long_as_the_others(
    balancer: Balancer, nodes: tuple[Node, Node]
) -> None:
    one, _two = nodes
    assert balancer.command(f"POOL p DRAIN {one.address} for=3600") == ["OK"]
    before = balancer.command("workers")
    os.kill(int(before[1].split()[2]), signal.SIGKILL)

    def replaced() -> bool:
        lines = [line.split() for line in balancer.command("workers")]
        ready = [line[2] for line in lines if line[0] == "worker" and line[3] == "ready"]
        return len(ready) == 2 and before[1].split()[2] not in ready

    wait_for(replaced, "another worker")
    assert asked(balancer) == {"two"}
    assert 3000 < left_s(balancer) <= 3600
    # Nor does a restart let it in, which forgets what else was said on the console.
    assert balancer.command("restart") == ["OK"]
    assert asked(balancer) == {"two"}
    assert 3000 < left_s(balancer) <= 3600
    assert balancer.command(f"POOL p DRAIN {one.address} for=0") == ["OK"]
    wait_for(lambda: asked(balancer) == {"one", "two"}, "the node to be asked again")


def test_what_can_not_be_drained_is_said(balancer: Balancer, nodes: tuple[Node, Node]) -> None:
    one, _two = nodes
    assert "pool p has no node 10.9.9.9:80" in balancer.command("POOL p DRAIN 10.9.9.9")[0]
    for option in ("for=x", "for=86401", "weight=2"):
        answer = balancer.command(f"POOL p DRAIN {one.address} {option}")[0]
        assert "write for=0 to for=86400 (seconds)" in answer
    assert "goes with DRAIN" in balancer.command(f"POOL p ADD {one.address} for=3")[0]
    argv = [LJ, "perlbal", "drain", "--server", f"127.0.0.1:{balancer.console}"]
    refused = subprocess.run([*argv, one.address, "true"], capture_output=True, text=True)
    assert (refused.returncode, refused.stderr) == (5, "Error: Pool 'webs' not found\n")
    missing = subprocess.run(
        drain(balancer, one, 3, "no-such-program"), capture_output=True, text=True
    )
    assert missing.returncode == 1
    assert "no-such-program: No such file or directory; nothing was done" in missing.stderr
    assert not out(balancer, one)
