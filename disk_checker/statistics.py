"""How much a result proves.

Sources: the rule of three (Hanley and Lippman-Hand, JAMA 1983); the unrecoverable error
rate is the one that disks' data sheets promise, at most one in 10**14 bits read.
"""

from __future__ import annotations

import math

UNRECOVERABLE_PER_BIT = 1e-14
FALSE_STAMP = 2.0**-32


def loss_bound(clean_cycles: int, confidence: float = 0.95) -> float:
    """Upper bound of the loss probability per cut after so many clean cycles.

    Exact binomial, which for 95 % is the rule of three, 3/N: 1 - 0.05**(1/N).
    """
    if clean_cycles < 1:
        return 1.0
    return float(1 - (1 - confidence) ** (1 / clean_cycles))


def cycles_for(loss_probability: float, confidence: float = 0.95) -> int:
    """Cycles needed to see, with this confidence, a disk that loses in this share of cuts."""
    if not 0 < loss_probability <= 1:
        raise ValueError("the probability must be above 0 and at most 1")
    if loss_probability == 1:
        return 1
    return math.ceil(math.log(1 - confidence) / math.log(1 - loss_probability))


def poisson_tail(count: int, mean: float) -> float:
    """P(at least ``count`` events) when ``mean`` are expected."""
    if count <= 0:
        return 1.0
    if mean <= 0:
        return 0.0
    term = math.exp(-mean + count * math.log(mean) - math.lgamma(count + 1))
    total, number = term, count
    while term > total * 1e-16:
        number += 1
        term *= mean / number
        total += term
    return min(1.0, total)


def honest_probability(cls: str, count: int, bytes_read: int) -> float:
    """The probability that an honest disk shows at least ``count`` findings of a class.

    Damage happens to honest disks at their data sheet's error rate.  Loss, tearing of
    acknowledged blocks, misplacement and stale metadata do not: they appear only when
    random damage makes a valid checksum.
    """
    mean = bytes_read * 8 * UNRECOVERABLE_PER_BIT
    if cls not in ("corrupted", "unreadable"):
        mean *= FALSE_STAMP
    return poisson_tail(count, mean)
