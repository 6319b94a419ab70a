"""Numbers as the text protocol writes them: decimal digits, a sign where one is allowed."""

from __future__ import annotations

from lj_services.memcached.protocol.commands import UINT64_MAX

_MOST_DIGITS = 20  # 2**64 has no more; longer ones are not worth reading


def unsigned(token: bytes, most: int = UINT64_MAX) -> int | None:
    """The number 0..`most` that `token` spells, or None."""
    if token.isdigit() and len(token) <= _MOST_DIGITS and (value := int(token)) <= most:
        return value
    return None


def signed(token: bytes) -> int | None:
    """The number that `token` spells, which may be negative, or None."""
    value = unsigned(token)
    if value is None and token[:1] == b"-":
        value = unsigned(token[1:])
        return None if value is None else -value
    return value
