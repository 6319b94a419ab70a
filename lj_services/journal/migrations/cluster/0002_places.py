"""How many comments a post has, deleted ones too; kept for users of schema_ver 2 and later."""

from sqlalchemy import Connection, inspect, text


def upgrade(connection: Connection) -> None:
    """Add the column, unless a run that was cut short has done so."""
    if "places" not in {column["name"] for column in inspect(connection).get_columns("post")}:
        connection.execute(
            text("ALTER TABLE post ADD COLUMN places INTEGER /*! UNSIGNED */ NOT NULL DEFAULT 0")
        )
