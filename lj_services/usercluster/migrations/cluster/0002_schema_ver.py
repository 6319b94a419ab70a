"""The version that a user's rows are in, in the fence row: it is read with the fence."""

from sqlalchemy import Connection, inspect, text


def upgrade(connection: Connection) -> None:
    """Add the column, unless a run that was cut short has done so."""
    if "schema_ver" not in {
        column["name"] for column in inspect(connection).get_columns("user_home")
    }:
        connection.execute(
            text(
                "ALTER TABLE user_home "
                "ADD COLUMN schema_ver INTEGER /*! UNSIGNED */ NOT NULL DEFAULT 1"
            )
        )
