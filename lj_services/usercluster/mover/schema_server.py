"""`discovery` on MariaDB and MySQL: what ``information_schema`` says of a cluster's database."""

from __future__ import annotations

from sqlalchemy import Connection, text

from lj_services.usercluster.mover.discovery import Column, Schema, Table, classify
from lj_services.usercluster.mover.literals import can_be_key, can_be_moved, text_of
from lj_services.usercluster.mover.rows import Print


def read_schema(connection: Connection, place: str) -> Schema:
    """What a cluster's database has.

    Args:
        connection: to it.
        place: its name, for messages.

    Raises:
        Unclassified: a table can't be moved.
    """
    mariadb = bool(getattr(connection.dialect, "is_mariadb", False))
    tables = connection.execute(
        text(
            "SELECT table_name, engine, table_type, avg_row_length "
            "FROM information_schema.tables WHERE table_schema = DATABASE() "
            "AND table_type NOT IN ('VIEW', 'SYSTEM VIEW') ORDER BY table_name"
        )
    ).all()
    columns: dict[str, list[Column]] = {}
    signature: list[str] = []
    for row in connection.execute(
        text(
            "SELECT table_name, column_name, data_type, column_type, is_nullable, "
            "column_default, character_set_name, collation_name, extra, "
            "generation_expression, character_octet_length FROM information_schema.columns "
            "WHERE table_schema = DATABASE() ORDER BY table_name, ordinal_position"
        )
    ):
        name, column, kind, full, nullable, default, charset, collation, extra, made, octets = (
            text_of(value) for value in row
        )
        columns.setdefault(name, []).append(
            Column(
                column,
                kind.lower(),
                full,
                unsigned="unsigned" in full.lower(),
                charset=charset,
                length=int(octets) if octets is not None else None,
                nullable=nullable != "NO",
                generated=bool(made),
            )
        )
        signature.append(
            f"{name}.{column} {full} nullable={nullable} default={default} "
            f"collation={collation} {extra} {made or ''}".rstrip()
        )
    keys: dict[str, list[str]] = {}
    indexes: dict[tuple[str, str], list[str]] = {}
    prefixed: set[str] = set()
    for row in connection.execute(
        text(
            "SELECT table_name, index_name, non_unique, column_name, sub_part "
            "FROM information_schema.statistics WHERE table_schema = DATABASE() "
            "ORDER BY table_name, index_name, seq_in_index"
        )
    ):
        name, index, loose, column, part = (text_of(value) for value in row)
        if index == "PRIMARY":
            keys.setdefault(name, []).append(column)
            if part is not None:
                prefixed.add(name)
        piece = f"{column}({part})" if part is not None else str(column)
        indexes.setdefault((name, f"{index} unique={int(loose) == 0}"), []).append(piece)
    signature += [f"{t} index {i}: {', '.join(parts)}" for (t, i), parts in indexes.items()]
    foreign = _names_of(
        connection,
        "SELECT DISTINCT table_name FROM information_schema.key_column_usage "
        "WHERE table_schema = DATABASE() AND referenced_table_name IS NOT NULL",
    )
    triggers = _names_of(
        connection,
        "SELECT DISTINCT event_object_table FROM information_schema.triggers "
        "WHERE event_object_schema = DATABASE()",
    )
    asked = []
    for name, engine, kind, _ in tables:
        name, against = text_of(name), []
        if text_of(kind) != "BASE TABLE":
            against.append(f"it is a {text_of(kind).lower()}")
        if str(text_of(engine)).lower() != "innodb":
            against.append(f"its engine is {text_of(engine)}; only InnoDB's locks will do")
        if name in foreign:
            against.append("it has foreign keys, whose cascades the binary log does not show")
        if name in triggers:
            against.append("it has triggers, which would run twice")
        if name in prefixed:
            against.append("its primary key holds only the beginning of a column")
        by_name = {column.name: column for column in columns.get(name, [])}
        against += [
            f"its key column {part} ({by_name[part].type}) has no order that can be walked"
            for part in keys.get(name, [])[1:]
            if not can_be_key(by_name[part])
        ]
        against += [
            f"column {column.name} is of a type that can't be moved: {column.type}"
            for column in by_name.values()
            if not can_be_moved(column)
        ]
        asked.append((name, list(by_name), keys.get(name, []), against))
    moving = set(classify(place, asked))
    widths = {text_of(name): int(width or 100) for name, _, _, width in tables}
    found = []
    for name, _, key, _ in asked:
        if name in moving:
            by_name = {column.name: column for column in columns[name]}
            found.append(
                Table(
                    name,
                    tuple(columns[name]),
                    tuple(by_name[part] for part in key[1:]),
                    widths[name],
                )
            )
    return Schema("mariadb" if mariadb else "mysql", tuple(found), tuple(sorted(signature)))


def _names_of(connection: Connection, query: str) -> set[str]:
    return {text_of(name) for (name,) in connection.execute(text(query))}


def read_print(connection: Connection) -> Print | None:
    """What changes with every change of the schema, or of what a feed needs of the log.

    MariaDB notes when each table's definition was written last (``create_time``), in whole
    seconds: so a definition that was written just now may be written once more without a trace, and
    is not settled.  Triggers lie beside it.  MySQL notes no such thing.
    """
    if not getattr(connection.dialect, "is_mariadb", False):
        return None
    row = connection.execute(_PRINT).one()
    return Print("|".join(str(text_of(part)) for part in row[1:]), bool(row[0]))


_PRINT = text(
    "SELECT COALESCE(MAX(create_time) < NOW() - INTERVAL 2 SECOND, 1), @@server_id, @@log_bin, "
    "@@GLOBAL.binlog_format, @@GLOBAL.log_bin_compress, COUNT(*), "
    "MD5(GROUP_CONCAT(table_name, ' ', create_time, ' ', table_type ORDER BY table_name)), "
    "(SELECT COUNT(*) FROM information_schema.triggers WHERE event_object_schema = DATABASE()) "
    "FROM information_schema.tables WHERE table_schema = DATABASE()"
)
