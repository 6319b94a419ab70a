"""Rules for moves: the ``[mover]`` table of the site file."""

from __future__ import annotations

from pydantic import Field

from lj_services.daemon import ByteSize, Settings


class MoverSettings(Settings):
    """How users are moved."""

    freeze_limit_ms: int = Field(
        default=200,
        ge=10,
        le=60_000,
        description="milliseconds that a user's writes may be held at the cut-over; a move that "
        "would need longer lets go and catches up again",
    )
    freeze_lock_ms: int = Field(
        default=100,
        ge=5,
        le=10_000,
        description="milliseconds of those in which a writer's open transaction is waited for",
    )
    freeze_tries: int = Field(
        default=50, ge=1, le=10_000, description="cut-overs that are tried before a move fails"
    )
    grace_s: float = Field(
        default=86_400.0,
        ge=0,
        le=90 * 86_400.0,
        description="seconds that the source keeps its rows after the cut-over; not less than "
        "users.route_ttl_s, since readers with an old route read them",
    )
    lease_s: float = Field(
        default=15.0,
        ge=1,
        le=600,
        description="seconds without a sign of life until another worker takes a move over",
    )
    frozen_lease_s: float = Field(
        default=2.0,
        ge=0.5,
        le=60,
        description="the same while a user's writes are held",
    )
    attempts: int = Field(
        default=8, ge=1, le=1000, description="times that a move is taken up before it fails"
    )
    backoff_s: float = Field(
        default=1.0, gt=0, le=600, description="seconds until the second attempt; doubles each time"
    )
    chunk_target_ms: int = Field(
        default=25,
        ge=1,
        le=1000,
        description="milliseconds that reading a chunk may take: its rows are locked so long",
    )
    chunk_bytes: ByteSize = Field(
        default=1 << 20,
        description="bytes of rows in a chunk, about; as 1m.  Such a chunk is one statement: less "
        "than max_allowed_packet of the destination",
    )
    at_once_rows: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="users with no more rows are copied and compared in one transaction on each "
        "side; 0: nobody",
    )
    record_within_ms: int = Field(
        default=200,
        ge=0,
        le=10_000,
        description="milliseconds that the record of a step may wait for that of the next one, "
        "where whoever takes the move over does not need it; 0: each at once",
    )
    feed_linger_s: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="seconds that a source's binary log is read on after the last move from there",
    )
    purge_rows: int = Field(
        default=500, ge=1, le=100_000, description="rows that one purging transaction deletes"
    )
    purge_pause_ms: int = Field(
        default=20, ge=0, le=60_000, description="milliseconds of rest between two of them"
    )
    min_free: ByteSize = Field(
        default=64 << 20,
        description="bytes of disk that must stay free on the destination, as 64m or 2g",
    )
    use_feed: bool = Field(
        default=True,
        description="follow what users write by the source's binary log, or triggers on SQLite, "
        "where that is possible; otherwise by passes of checksums",
    )
    write_rates_s: float = Field(
        default=60.0,
        ge=0,
        le=3600,
        description="seconds that a worker watches a cluster's change feed until it records how "
        "much each user there writes, for lj balance plan; 0: never",
    )
