"""What N clean cycles prove, and what an honest disk would show."""

from __future__ import annotations

import math

import pytest

from disk_checker.cycle import series
from disk_checker.statistics import cycles_for, honest_probability, loss_bound, poisson_tail

pytestmark = pytest.mark.unit


def test_the_rule_of_three() -> None:
    for clean in (10, 30, 100, 1000):
        assert 0.85 * 3 / clean < loss_bound(clean) <= 3 / clean
    assert loss_bound(0) == 1.0


@pytest.mark.parametrize(("p", "cycles"), [(1.0, 1), (0.5, 5), (0.1, 29), (0.01, 299)])
def test_cycles_to_catch_a_sometimes_liar(p: float, cycles: int) -> None:
    assert cycles_for(p) == cycles
    assert (1 - p) ** cycles <= 0.05


def test_the_poisson_tail() -> None:
    assert poisson_tail(0, 3.0) == 1.0
    assert poisson_tail(1, 0.5) == pytest.approx(1 - math.exp(-0.5))
    assert poisson_tail(2, 0.5) == pytest.approx(1 - math.exp(-0.5) * 1.5)
    assert poisson_tail(5, 0.0) == 0.0


def test_honest_disks_have_bit_errors_but_lose_nothing() -> None:
    terabytes = 10**13
    assert honest_probability("corrupted", 1, terabytes) > 0.5
    assert honest_probability("corrupted", 50, 10**9) < 1e-100
    assert honest_probability("lost", 1, terabytes) < 1e-9


def test_a_series_says_what_it_proves() -> None:
    clean = {"exit_code": 0, "headline": "HONEST", "verdict": "honest"}
    lying = {"exit_code": 1, "headline": "LYING: lost", "verdict": "lying"}
    doubt = {"exit_code": 2, "headline": "COULD NOT TELL", "verdict": "unknown"}
    good = series([clean] * 20)
    assert good["exit_code"] == 0
    assert "under 3/20 at 95 %" in good["headline"]
    bad = series([clean, lying])
    assert bad["exit_code"] == 1
    assert bad["headline"] == "cycle 2 of 2: LYING: lost"
    assert series([clean, doubt])["exit_code"] == 2
    assert series([doubt])["exit_code"] == 2
