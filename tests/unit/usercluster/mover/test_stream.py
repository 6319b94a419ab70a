"""Which events of a binary log are decoded, by the first bytes of what the server sends."""

from __future__ import annotations

import struct

import pytest
from pymysqlreplication.constants import BINLOG

from lj_services.usercluster.mover import stream
from lj_services.usercluster.mover.stream import Sieve

pytestmark = pytest.mark.unit


@pytest.fixture
def sieve(monkeypatch: pytest.MonkeyPatch) -> Sieve:
    monkeypatch.setattr(stream, "END_WITHIN_S", 3600.0)
    fresh = Sieve("lj_cluster1")
    assert fresh.passes(event(BINLOG.XID_EVENT))  # the first end is always of use
    return fresh


def event(kind: int, body: bytes = b"") -> bytes:
    """A packet: zero, the header, the event, a checksum."""
    return b"\0" + struct.pack("<IBIIIH", 1, kind, 1, 23 + len(body), 4711, 0) + body + bytes(12)


def described(number: int, schema: str, table: str = "note") -> bytes:
    names = [bytes([len(name)]) + name.encode() + b"\0" for name in (schema, table)]
    return event(BINLOG.TABLE_MAP_EVENT, number.to_bytes(6, "little") + bytes(2) + b"".join(names))


def rows(number: int, kind: int = BINLOG.WRITE_ROWS_EVENT_V1) -> bytes:
    return event(kind, number.to_bytes(6, "little") + bytes(2))


def test_rows_of_this_database_only(sieve: Sieve) -> None:
    assert sieve.passes(described(17, "lj_cluster1"))
    assert not sieve.passes(described(18, "lj_cluster10"))
    assert not sieve.passes(described(19, "lj_cluster"))
    for kind in (BINLOG.UPDATE_ROWS_EVENT_V1, BINLOG.DELETE_ROWS_EVENT_V2):
        assert sieve.passes(rows(17, kind))
        assert not sieve.passes(rows(18, kind))


def test_rows_of_a_table_that_nobody_described_are_left_to_the_decoder(sieve: Sieve) -> None:
    assert sieve.passes(rows(99))


def test_a_description_is_read_once_in_a_file(sieve: Sieve) -> None:
    assert sieve.passes(described(17, "lj_cluster1"))
    assert not sieve.passes(described(17, "lj_cluster1"))
    assert sieve.passes(event(BINLOG.ROTATE_EVENT, bytes(8) + b"binlog.000002"))
    # The numbers of a server's next life are given out anew.
    assert sieve.passes(described(18, "lj_cluster1"))
    assert not sieve.passes(described(17, "lj_global"))
    assert not sieve.passes(rows(17))
    assert sieve.passes(rows(18))


def test_the_end_of_a_transaction_matters_if_its_rows_did(sieve: Sieve) -> None:
    sieve.passes(described(17, "lj_cluster1"))
    sieve.passes(described(18, "lj_global"))
    assert sieve.passes(rows(17))
    assert not sieve.passes(rows(18))
    assert sieve.passes(event(BINLOG.XID_EVENT))
    assert not sieve.passes(rows(18))
    assert not sieve.passes(event(BINLOG.XID_EVENT))


def test_others_ends_tell_now_and_then_how_far_it_is(
    sieve: Sieve, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not sieve.passes(event(BINLOG.XID_EVENT))
    monkeypatch.setattr(stream, "END_WITHIN_S", 0.0)
    again = Sieve("lj_cluster1")
    assert again.passes(event(BINLOG.XID_EVENT))
    assert again.passes(event(BINLOG.XID_EVENT))


def test_everything_else_is_decoded_but_what_is_nobodys(sieve: Sieve) -> None:
    for kind in (BINLOG.QUERY_EVENT, BINLOG.HEARTBEAT_LOG_EVENT, BINLOG.FORMAT_DESCRIPTION_EVENT):
        assert sieve.passes(event(kind, bytes(20)))
    for kind in (BINLOG.MARIADB_GTID_EVENT, BINLOG.GTID_LOG_EVENT):
        assert not sieve.passes(event(kind, bytes(20)))


def test_an_error_and_the_end_are_not_events(sieve: Sieve) -> None:
    sieve.passes(described(18, "lj_global"))
    assert sieve.passes(b"\xff" + rows(18)[1:])
    assert sieve.passes(b"\xfe\0\0\0\0")
