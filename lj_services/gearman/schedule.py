"""The next time that a minute, hour, day and month name, as ``SUBMIT_JOB_SCHED`` gives them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

FIELDS: Final = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week (0: Monday)", 0, 6),
)
"""What the arguments are called, and between what they may lie (PROTOCOL, SUBMIT_JOB_SCHED)."""
ANY: Final = (b"", b"*")
"""What an argument is that any time fits."""
MOST_DAYS: Final = 366 * 28
"""After so many days every date has been on every day of the week, 29 February included."""


def next_time(words: Sequence[bytes], now: float) -> float:
    """The first minute after `now` that fits, by this machine's time zone.

    Args:
        words: minute, hour, day of the month, month, day of the week (0: Monday); each is a
            number, or empty or ``*`` for any.
        now: in seconds of the epoch.

    Returns:
        when that minute begins, in seconds of the epoch.

    Raises:
        ValueError: a word is no such number, or there is no such time, as on 31 February.
    """
    if len(words) != len(FIELDS):
        raise ValueError("it takes minute, hour, day of the month, month and day of the week")
    minute, hour, day, month, weekday = (
        None if word in ANY else _number(word, *field)
        for word, field in zip(words, FIELDS, strict=True)
    )
    first = datetime.fromtimestamp(now).replace(second=0, microsecond=0) + timedelta(minutes=1)
    for number in range(MOST_DAYS):
        date = first.replace(hour=0, minute=0) + timedelta(days=number)
        if not (
            day in (None, date.day)
            and month in (None, date.month)
            and weekday in (None, date.weekday())
        ):
            continue
        for some_hour in range(24) if hour is None else (hour,):
            for some_minute in range(60) if minute is None else (minute,):
                found = date.replace(hour=some_hour, minute=some_minute)
                if found >= first:
                    return found.timestamp()
    raise ValueError("there is no such date")


def _number(word: bytes, name: str, least: int, most: int) -> int:
    if not word.isdigit() or not least <= int(word) <= most:
        raise ValueError(f"The {name} must be a number from {least} to {most}, or * for any")
    return int(word)
