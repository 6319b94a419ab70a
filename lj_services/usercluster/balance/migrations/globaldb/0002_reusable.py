"""What deleted rows left free in a cluster's files, apart from what is free on its disk."""

from sqlalchemy import Connection, inspect, text


def upgrade(connection: Connection) -> None:
    """Add the column, unless a run that was cut short has done so."""
    if "reusable" not in {
        column["name"] for column in inspect(connection).get_columns("balance_cluster")
    }:
        connection.execute(
            text("ALTER TABLE balance_cluster ADD COLUMN reusable BIGINT /*! UNSIGNED */ NULL")
        )
