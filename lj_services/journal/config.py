"""Settings of the site's daemon, ``lj journal serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from lj_services.daemon import ByteSize, DaemonSettings, HostPort

MAX_SUBJECT = 200
"""Characters in a post's subject; the column holds no more."""
MAX_MOOD = 60
MAX_MUSIC = 120
MAX_TITLE = 100
MAX_ABOUT = 2_000
MAX_POST = 60_000
"""Characters in a post.  Percent-encoded in a form they are at most 12 bytes each,
so a post of this length always fits into the default ``max_form``."""
MAX_COMMENT = 4_000
MIN_PASSWORD = 8
MAX_PASSWORD = 200


class JournalSettings(DaemonSettings):
    """The site's daemon."""

    listen: HostPort = Field(
        default=HostPort("127.0.0.1", 8080), description="address that browsers connect to"
    )
    idle_timeout_s: float = Field(
        default=60.0, ge=0, description="seconds of silence before a client is cut off; 0: never"
    )
    request_timeout_s: float = Field(
        default=120.0,
        ge=1,
        le=86_400,
        description="seconds in which a request must have arrived, from its first byte to the end "
        "of its form; who takes longer, however busily, is cut off",
    )
    secret_file: Path | None = Field(
        default=None,
        description="file with at least 32 random bytes that sign forms; all processes of a site "
        "need the same.  Unset: made anew at each start, and forms that are open then expire",
    )
    trusted_proxies: tuple[str, ...] = Field(
        default=(),
        description="addresses of load balancers whose X-Forwarded-For and -Proto are believed",
    )
    hsts_s: int = Field(
        default=31_536_000,
        ge=0,
        description="seconds for which a browser that came over https shall come no other way; "
        "0: it is not told",
    )
    threads: int = Field(
        default=32, ge=1, le=1000, description="pages made at once; more wait their turn"
    )
    hash_memory: ByteSize = Field(
        default=32 << 20, ge=8 << 10, description="memory of one password check, as 32m"
    )
    hash_passes: int = Field(
        default=3, ge=1, le=100, description="passes over that memory; each costs time"
    )
    hash_slots: int = Field(
        default=4, ge=1, le=256, description="password checks at once: bounds their memory"
    )
    session_days: int = Field(default=30, ge=1, le=400, description="days that a log-in lasts")
    login_failures: int = Field(
        default=10, ge=1, description="wrong passwords for one name from one place per window"
    )
    login_window_s: int = Field(
        default=900, ge=1, description="seconds after which wrong passwords are forgotten"
    )
    page_size: int = Field(default=20, ge=1, le=100, description="posts on a page of a journal")
    friends_page_size: int = Field(default=25, ge=1, le=100, description="posts on a friends page")
    thread_page_size: int = Field(
        default=100, ge=1, le=1000, description="comments on a page, after which a new one starts"
    )
    max_comments: int = Field(default=5_000, ge=1, le=50_000, description="comments on a post")
    max_friends: int = Field(default=2_000, ge=1, le=20_000, description="friends of one user")
    recent_posts: int = Field(
        default=10, ge=1, le=100, description="newest posts of a user that the cache keeps"
    )
    recent_excerpt: int = Field(
        default=1_200, ge=50, le=20_000, description="characters of a post on a friends page"
    )
    recent_expire_s: int = Field(
        default=900, ge=1, le=86_400, description="seconds that the cache keeps a user's newest"
    )
    clean_timeout_s: float = Field(
        default=3.0,
        gt=0,
        le=60,
        description="seconds that an author waits for workers to clean the HTML of a post; then "
        "it is stored as plain text",
    )
    cluster_reads: Literal["direct", "gofer"] = Field(
        default="direct",
        description="who asks the clusters for posts that the cache does not have: this process, "
        "or gofers by way of the job servers, which keeps the databases' connections few",
    )
    max_form: ByteSize = Field(
        default=768 << 10, ge=4 << 10, description="bytes of one form; larger ones are refused"
    )
    max_drain: ByteSize = Field(
        default=8 << 20,
        description="bytes of a refused form that are read and dropped, so that the browser "
        "shows the refusal; larger ones are cut off",
    )
