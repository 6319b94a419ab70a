"""The packets of Gearman's binary protocol: their numbers, arguments and directions.

Source: PROTOCOL, in gearmand's documentation; `protocol` says where servers and clients in
use differ from it.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Final, NamedTuple


class Magic(bytes, Enum):
    """Which way a packet goes."""

    REQUEST = b"\0REQ"
    """To the server."""
    RESPONSE = b"\0RES"
    """From the server."""


class PacketType(IntEnum):
    """Every packet of the protocol, by its number.  5 was never given to one."""

    CAN_DO = 1
    CANT_DO = 2
    RESET_ABILITIES = 3
    PRE_SLEEP = 4
    NOOP = 6
    SUBMIT_JOB = 7
    JOB_CREATED = 8
    GRAB_JOB = 9
    NO_JOB = 10
    JOB_ASSIGN = 11
    WORK_STATUS = 12
    WORK_COMPLETE = 13
    WORK_FAIL = 14
    GET_STATUS = 15
    ECHO_REQ = 16
    ECHO_RES = 17
    SUBMIT_JOB_BG = 18
    ERROR = 19
    STATUS_RES = 20
    SUBMIT_JOB_HIGH = 21
    SET_CLIENT_ID = 22
    CAN_DO_TIMEOUT = 23
    ALL_YOURS = 24
    WORK_EXCEPTION = 25
    OPTION_REQ = 26
    OPTION_RES = 27
    WORK_DATA = 28
    WORK_WARNING = 29
    GRAB_JOB_UNIQ = 30
    JOB_ASSIGN_UNIQ = 31
    SUBMIT_JOB_HIGH_BG = 32
    SUBMIT_JOB_LOW = 33
    SUBMIT_JOB_LOW_BG = 34
    SUBMIT_JOB_SCHED = 35
    SUBMIT_JOB_EPOCH = 36
    SUBMIT_REDUCE_JOB = 37
    SUBMIT_REDUCE_JOB_BACKGROUND = 38
    GRAB_JOB_ALL = 39
    JOB_ASSIGN_ALL = 40
    GET_STATUS_UNIQUE = 41
    STATUS_RES_UNIQUE = 42


class Shape(NamedTuple):
    """What a type of packet carries, and which way it goes."""

    arguments: tuple[str, ...]
    """Names of the arguments, in order."""
    directions: frozenset[Magic]
    data: bool
    """Whether the last argument may hold any bytes, NULs included."""


_TO_SERVER = frozenset({Magic.REQUEST})
_FROM_SERVER = frozenset({Magic.RESPONSE})
_BOTH = _TO_SERVER | _FROM_SERVER


def _shape(directions: frozenset[Magic], arguments: str = "") -> Shape:
    names = tuple(arguments.split())
    return Shape(names, directions, names[-1:] == ("data",))


SHAPES: Final[dict[PacketType, Shape]] = {
    PacketType.CAN_DO: _shape(_TO_SERVER, "function"),
    PacketType.CANT_DO: _shape(_TO_SERVER, "function"),
    PacketType.RESET_ABILITIES: _shape(_TO_SERVER),
    PacketType.PRE_SLEEP: _shape(_TO_SERVER),
    PacketType.NOOP: _shape(_FROM_SERVER),
    PacketType.SUBMIT_JOB: _shape(_TO_SERVER, "function unique data"),
    PacketType.JOB_CREATED: _shape(_FROM_SERVER, "handle"),
    PacketType.GRAB_JOB: _shape(_TO_SERVER),
    PacketType.NO_JOB: _shape(_FROM_SERVER),
    PacketType.JOB_ASSIGN: _shape(_FROM_SERVER, "handle function data"),
    PacketType.WORK_STATUS: _shape(_BOTH, "handle numerator denominator"),
    PacketType.WORK_COMPLETE: _shape(_BOTH, "handle data"),
    PacketType.WORK_FAIL: _shape(_BOTH, "handle"),
    PacketType.GET_STATUS: _shape(_TO_SERVER, "handle"),
    PacketType.ECHO_REQ: _shape(_TO_SERVER, "data"),
    PacketType.ECHO_RES: _shape(_FROM_SERVER, "data"),
    PacketType.SUBMIT_JOB_BG: _shape(_TO_SERVER, "function unique data"),
    PacketType.ERROR: _shape(_FROM_SERVER, "code text"),
    PacketType.STATUS_RES: _shape(_FROM_SERVER, "handle known running numerator denominator"),
    PacketType.SUBMIT_JOB_HIGH: _shape(_TO_SERVER, "function unique data"),
    PacketType.SET_CLIENT_ID: _shape(_TO_SERVER, "id"),
    PacketType.CAN_DO_TIMEOUT: _shape(_TO_SERVER, "function timeout"),
    PacketType.ALL_YOURS: _shape(_TO_SERVER),
    PacketType.WORK_EXCEPTION: _shape(_BOTH, "handle data"),
    PacketType.OPTION_REQ: _shape(_TO_SERVER, "option"),
    PacketType.OPTION_RES: _shape(_FROM_SERVER, "option"),
    PacketType.WORK_DATA: _shape(_BOTH, "handle data"),
    PacketType.WORK_WARNING: _shape(_BOTH, "handle data"),
    PacketType.GRAB_JOB_UNIQ: _shape(_TO_SERVER),
    PacketType.JOB_ASSIGN_UNIQ: _shape(_FROM_SERVER, "handle function unique data"),
    PacketType.SUBMIT_JOB_HIGH_BG: _shape(_TO_SERVER, "function unique data"),
    PacketType.SUBMIT_JOB_LOW: _shape(_TO_SERVER, "function unique data"),
    PacketType.SUBMIT_JOB_LOW_BG: _shape(_TO_SERVER, "function unique data"),
    PacketType.SUBMIT_JOB_SCHED: _shape(
        _TO_SERVER, "function unique minute hour mday month wday data"
    ),
    PacketType.SUBMIT_JOB_EPOCH: _shape(_TO_SERVER, "function unique epoch data"),
    PacketType.SUBMIT_REDUCE_JOB: _shape(_TO_SERVER, "function unique reducer unused data"),
    PacketType.SUBMIT_REDUCE_JOB_BACKGROUND: _shape(
        _TO_SERVER, "function unique reducer unused data"
    ),
    PacketType.GRAB_JOB_ALL: _shape(_TO_SERVER),
    PacketType.JOB_ASSIGN_ALL: _shape(_FROM_SERVER, "handle function unique reducer data"),
    PacketType.GET_STATUS_UNIQUE: _shape(_TO_SERVER, "unique"),
    PacketType.STATUS_RES_UNIQUE: _shape(
        _FROM_SERVER, "unique known running numerator denominator waiters"
    ),
}
"""What each type of packet carries."""
