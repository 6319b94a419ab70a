"""Whether a post's body is plain text (0) or HTML that was cleaned (1)."""

from sqlalchemy import Connection, inspect, text


def upgrade(connection: Connection) -> None:
    """Add the column, unless a run that was cut short has done so."""
    if "markup" not in {column["name"] for column in inspect(connection).get_columns("post")}:
        connection.execute(text("ALTER TABLE post ADD COLUMN markup SMALLINT NOT NULL DEFAULT 0"))
