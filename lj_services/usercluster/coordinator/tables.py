"""The coordinator's tables, as SQLAlchemy sees them; the migrations make them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Integer, MetaData, String, Table

metadata = MetaData()

mover_coordinator = Table(
    "mover_coordinator",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("term", Integer, nullable=False),
    Column("name", String(100), nullable=False),
    Column("address", String(100)),
    Column("seen_at", BigInteger, nullable=False),
)
"""One row: which coordinator rules (``term`` counts them), and where it is reached."""

mover_pause = Table(
    "mover_pause",
    metadata,
    Column("scope", String(20), primary_key=True),
    Column("reason", String(200), nullable=False),
    Column("since", BigInteger, nullable=False),
)
"""What operators have paused."""

mover_limit = Table(
    "mover_limit",
    metadata,
    Column("scope", String(20), primary_key=True),
    Column("name", String(20), primary_key=True),
    Column("value", Double, nullable=False),
)
"""Limits that operators have set, over those of the settings; scopes are sides of clusters."""
