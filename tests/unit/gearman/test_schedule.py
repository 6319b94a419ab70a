"""When jobs for a minute, hour, day and month run."""

from __future__ import annotations

from datetime import datetime

import pytest

from lj_services.gearman.schedule import next_time

pytestmark = pytest.mark.unit

NOW = datetime(2007, 6, 27, 12, 30, 15)  # a Wednesday


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (b"* * * * *", datetime(2007, 6, 27, 12, 31)),
        (b"30 * * * *", datetime(2007, 6, 27, 13, 30)),
        (b"0 4 * * *", datetime(2007, 6, 28, 4, 0)),
        (b"0 4 1 * *", datetime(2007, 7, 1, 4, 0)),
        (b"0 0 * * 0", datetime(2007, 7, 2, 0, 0)),
        (b"59 23 31 12 *", datetime(2007, 12, 31, 23, 59)),
        (b"5 5 29 2 *", datetime(2008, 2, 29, 5, 5)),
        (b"0 0 29 2 0", datetime(2016, 2, 29, 0, 0)),
    ],
)
def test_the_next_time_that_fits(words: bytes, expected: datetime) -> None:
    assert datetime.fromtimestamp(next_time(words.split(), NOW.timestamp())) == expected


def test_an_empty_word_is_any() -> None:
    assert next_time([b""] * 5, NOW.timestamp()) == next_time([b"*"] * 5, NOW.timestamp())


@pytest.mark.parametrize(
    "words", [b"60 * * * *", b"* 24 * * *", b"* * 0 * *", b"* * * * 7", b"x * * * *", b"* * 31 2 *"]
)
def test_what_is_no_time_is_refused(words: bytes) -> None:
    with pytest.raises(ValueError, match=r"must be a number|no such date"):
        next_time(words.split(), NOW.timestamp())
