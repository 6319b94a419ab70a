"""Nodes that are left out of a pool for a while."""

from __future__ import annotations

from pathlib import Path

import pytest

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.nodes import parse_address
from lj_services.perlbal.pools import Pool

pytestmark = pytest.mark.unit

ONE, TWO = map(parse_address, ("10.0.0.1:80", "10.0.0.2:80"))


@pytest.fixture
def pool() -> Pool:
    made = Pool("p")
    made.add(ONE, 3)
    made.add(TWO)
    return made


def test_a_drained_node_is_out_and_in_again_by_itself_with_its_weight(pool: Pool) -> None:
    pool.drain(ONE, 20.0)
    assert pool.nodes == [TWO]
    assert pool.drained(10.5) == {ONE: 10}
    generation = pool.generation
    pool.let_in(19.9)
    assert pool.nodes == [TWO]
    assert pool.generation == generation
    pool.let_in(20.0)
    assert pool.weights() == {ONE: 3, TWO: 1}
    assert pool.drained(20.0) == {}
    assert pool.generation > generation


def test_a_drain_is_renewed_and_ended_by_add_and_remove(pool: Pool) -> None:
    pool.drain(ONE, 20.0)
    pool.drain(ONE, 40.0)
    pool.let_in(30.0)
    assert pool.nodes == [TWO]
    pool.add(ONE)
    assert pool.weights() == {ONE: 1, TWO: 1}
    pool.drain(ONE, 50.0)
    pool.remove(ONE)
    pool.let_in(60.0)
    assert pool.nodes == [TWO]


def test_a_node_that_the_pool_has_not_is_refused(pool: Pool) -> None:
    pool.remove(ONE)
    with pytest.raises(CommandError, match=r"pool p has no node 10\.0\.0\.1:80; SHOW POOL p"):
        pool.drain(ONE, 20.0)


def test_a_node_file_that_is_written_meanwhile_does_not_let_it_in(tmp_path: Path) -> None:
    pool = Pool("p")
    file = tmp_path / "nodes"
    file.write_text("10.0.0.1\n10.0.0.2\n")
    pool.set("nodefile", str(file))
    pool.drain(ONE, 20.0)
    file.write_text("10.0.0.1\n10.0.0.2\n10.0.0.3\n")
    assert pool.check_nodefile()
    assert pool.nodes == [TWO, parse_address("10.0.0.3")]
    file.write_text("10.0.0.2\n10.0.0.3\n#\n")
    assert pool.check_nodefile()
    assert pool.drained(10.0) == {}


def test_a_dump_makes_the_pool_what_it_is(pool: Pool) -> None:
    pool.drain(ONE, 20.0)
    assert pool.dump(5.0) == [
        "POOL ADD p 10.0.0.1:80 weight=3",
        "POOL ADD p 10.0.0.2:80",
        "POOL DRAIN p 10.0.0.1:80 for=15",
    ]
