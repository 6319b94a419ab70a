"""The mover's parts that need no database: sizing, keys, classification, explanations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lj_services.usercluster.mover.binlog import Place
from lj_services.usercluster.mover.discovery import (
    Column,
    Schema,
    SchemaDiffers,
    Table,
    Unclassified,
    classify,
    compare,
)
from lj_services.usercluster.mover.literals import conditions
from lj_services.usercluster.mover.rows import Keys, Range, frozen_key, thawed_key
from lj_services.usercluster.mover.rows_sqlite import _digest
from lj_services.usercluster.mover.subscription import Decoder
from lj_services.usercluster.mover.verify import unexplained
from lj_services.usercluster.mover.work import Meter

pytestmark = pytest.mark.unit

USERID = Column("userid", "int", "int(10) unsigned", unsigned=True)
ID = Column("id", "bigint", "bigint(20) unsigned", unsigned=True)
WORD = Column("word", "varchar", "varchar(9)", charset="utf8mb4")
RAW = Column("raw", "binary", "binary(4)", length=4)
THING = Table("thing", (USERID, ID, WORD, RAW), (ID, WORD, RAW))


def test_chunks_grow_and_shrink_towards_the_target() -> None:
    meter = Meter(0.025, 1 << 20, rows=200)
    meter.took(200, 1000, 0.001)
    assert meter.rows == 400  # doubles at most
    meter.took(400, 2000, 0.1)
    assert meter.rows == 100  # shrinks at once
    meter.took(100, 50 << 20, 0.025)
    assert meter.rows == 10  # bytes count too, but some rows always go
    meter.took(0, 0, 0.0)
    assert meter.rows == 10
    meter = Meter(0.025, 1 << 20, rows=800, least=500)
    meter.took(800, 1000, 1.0)
    assert meter.rows == 500  # it is the machine that is slow
    meter.took(500, 5 << 20, 1.0)
    assert meter.rows == 100


@given(st.lists(st.integers(0, 2**64) | st.text(max_size=5) | st.binary(max_size=5), max_size=4))
def test_keys_survive_in_json(parts: list[int | str | bytes]) -> None:
    assert thawed_key(frozen_key(tuple(parts))) == tuple(parts)
    assert thawed_key(frozen_key(None)) is None


SIMPLE = st.none() | st.integers(-99, 99) | st.text(max_size=3) | st.binary(max_size=3)


@given(st.tuples(SIMPLE, SIMPLE), st.tuples(SIMPLE, SIMPLE))
def test_digests_tell_types_and_borders_apart(
    one: tuple[object, ...], other: tuple[object, ...]
) -> None:
    same = one == other and [type(v) for v in one] == [type(v) for v in other]
    assert (_digest(*one) == _digest(*other)) is same


def test_ranges_are_written_out_column_by_column() -> None:
    (where,) = conditions(THING, 7, Range((1, "a", b"\x00"), (2, "b", b"\xff")))
    assert where == (
        "userid = 7 AND `id` >= 1 AND (`id` > 1 OR (`id` = 1 AND (`word` > _utf8mb4 x'61' OR "
        "(`word` = _utf8mb4 x'61' AND `raw` > x'00')))) AND `id` <= 2 AND (`id` < 2 OR (`id` = 2 "
        "AND (`word` < _utf8mb4 x'62' OR (`word` = _utf8mb4 x'62' AND `raw` <= x'ff'))))"
    )


def test_beginnings_of_keys_and_all_of_them() -> None:
    assert conditions(THING, 7, Keys(((1,), (2,)))) == ["userid = 7 AND `id` IN (1, 2)"]
    assert conditions(THING, 7, Keys(((1,), ()))) == ["userid = 7"]
    assert len(conditions(THING, 7, Keys(tuple((n,) for n in range(1001))))) == 3


def test_the_decoders_keys_end_where_it_cannot_be_trusted() -> None:
    decoder = Decoder(THING)
    assert decoder.key([7, -1, "a", "??"]) == (2**64 - 1, "a")
    assert decoder.userid([-1, 0, "", ""]) == 2**32 - 1


def test_places_are_ordered_by_file_and_position() -> None:
    assert Place(1, "binlog.000009", 900).order < Place(1, "binlog.000010", 4).order


def test_a_difference_needs_a_dirty_key_to_explain_it() -> None:
    differing = {(1, "a", b""), (2, "b", b"")}
    assert unexplained(differing, {"thing": {(1,), (9,)}}, THING) == {(2, "b", b"")}
    assert unexplained(differing, {"thing": {()}}, THING) == set()
    assert unexplained(differing, {"other": {(1,), (2,)}}, THING) == differing


def test_every_table_is_somebodys() -> None:
    assert classify("here", [("user_home", [], [], []), ("t", ["userid"], ["userid"], [])]) == ["t"]
    with pytest.raises(Unclassified) as refused:
        classify(
            "cluster 5",
            [
                ("a", ["id"], ["id"], []),
                ("b", ["id", "userid"], ["id", "userid"], []),
                ("c", ["userid"], ["userid"], ["it has triggers"]),
            ],
        )
    for part in ("cluster 5", "table a has no column userid", "table b: userid must", "triggers"):
        assert part in str(refused.value)


def test_sides_are_compared_line_by_line() -> None:
    one = Schema("mariadb", (), ("a", "b"))
    compare(("here", one), ("there", one))
    with pytest.raises(SchemaDiffers, match="only here: b; only there: c"):
        compare(("here", one), ("there", Schema("mariadb", (), ("a", "c"))))
    with pytest.raises(SchemaDiffers, match="clusters of one engine"):
        compare(("here", one), ("there", Schema("sqlite", (), ("a", "b"))))
