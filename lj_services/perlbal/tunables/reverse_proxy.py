"""Parameters of reverse proxies."""

from __future__ import annotations

from typing import Final

from lj_services.perlbal.tunables.tunable import Tunable
from lj_services.perlbal.values import (
    BOOL,
    ENDPOINTS,
    FILE,
    FOLDER,
    INT,
    PATH,
    PERCENT,
    PREFIXES,
    REGEXP,
    SCHEDULE,
    SIZE,
    TEXT,
    TOKEN,
)

_PROXY: Final = "reverse_proxy"

TUNABLES: Final = (
    Tunable("pool", TEXT, "", "the pool with the nodes that requests go to", _PROXY),
    Tunable("persist_backend", BOOL, False, "whether connections to nodes are kept open", _PROXY),
    Tunable(
        "backend_persist_cache",
        INT,
        2,
        "connections to nodes that are kept while nobody needs them",
        _PROXY,
    ),
    Tunable(
        "connect_ahead", INT, 0, "connections that are opened before anybody needs them", _PROXY
    ),
    Tunable(
        "verify_backend",
        BOOL,
        False,
        "whether a new connection first has to answer OPTIONS: a process then is there, and "
        "not only the node's queue of connections",
        _PROXY,
    ),
    Tunable("verify_backend_path", PATH, "*", "the path of that OPTIONS request", _PROXY),
    Tunable(
        "max_backend_uses", INT, 0, "requests over one connection to a node; 0: any number", _PROXY
    ),
    Tunable(
        "buffer_size",
        SIZE,
        256 << 10,
        "how much of a response is taken from a node before the client has read it",
        _PROXY,
        "bytes",
    ),
    Tunable(
        "buffer_size_reproxy_url",
        SIZE,
        50 << 10,
        "the same where X-REPROXY-URL named the source",
        _PROXY,
        "bytes",
    ),
    Tunable(
        "buffer_backend_connect",
        SIZE,
        100 << 10,
        "how much of a request's body is taken in before a node is given the request",
        _PROXY,
        "bytes",
    ),
    Tunable(
        "buffer_uploads",
        BOOL,
        False,
        "whether uploads are put to disk first, and given to a node when they are whole: those "
        "that the thresholds say, and all that come in chunks",
        _PROXY,
    ),
    Tunable("buffer_uploads_path", FOLDER, None, "the folder for uploads", _PROXY),
    Tunable(
        "buffer_uploads_limit",
        SIZE,
        0,
        "how much of the disk the uploads of the process may take together; what is beyond is "
        "answered 503; 0: any",
        _PROXY,
        "bytes",
        own=True,
    ),
    Tunable(
        "buffer_upload_threshold_time",
        INT,
        5,
        "uploads that will take longer are put to disk; 0: none for that",
        _PROXY,
        "seconds",
    ),
    Tunable(
        "buffer_upload_threshold_size",
        SIZE,
        250 << 10,
        "uploads of at least this size are put to disk; 0: none for that",
        _PROXY,
        "bytes",
    ),
    Tunable(
        "buffer_upload_threshold_rate",
        INT,
        0,
        "uploads that are slower are put to disk; 0: none for that",
        _PROXY,
        "bytes a second",
    ),
    Tunable("high_priority_cookie", TEXT, "", "requests with this cookie go before others", _PROXY),
    Tunable(
        "high_priority_cookie_contents",
        REGEXP,
        None,
        "a regular expression that the cookie's value must match, too",
        _PROXY,
    ),
    Tunable(
        "low_priority_cookie",
        TEXT,
        "",
        "requests with this cookie go behind others",
        _PROXY,
        own=True,
    ),
    Tunable(
        "low_priority_cookie_contents",
        REGEXP,
        None,
        "a regular expression that this cookie's value must match, too",
        _PROXY,
        own=True,
    ),
    Tunable(
        "queue_relief_size",
        INT,
        0,
        "requests that must wait in the normal, or the low, queue before its relief begins; 0: no "
        "relief for that",
        _PROXY,
    ),
    Tunable(
        "queue_relief_chance",
        PERCENT,
        0,
        "then, how often its turn comes before that of the queues above it",
        _PROXY,
        "percent",
    ),
    Tunable(
        "queue_relief_age",
        INT,
        0,
        "how long the first in the normal, or the low, queue must have waited before its relief "
        "begins; 0: no relief for that",
        _PROXY,
        "seconds",
        own=True,
    ),
    Tunable(
        "enable_reproxy",
        BOOL,
        False,
        "whether nodes may answer with X-REPROXY-*: they can then name any file and any URL",
        _PROXY,
    ),
    Tunable(
        "reproxy_cache_maxsize",
        INT,
        0,
        "answers with X-REPROXY-CACHE-FOR that are remembered; 0: none",
        _PROXY,
    ),
    Tunable(
        "enable_error_retries",
        BOOL,
        False,
        "whether GET and HEAD are tried again after 500",
        _PROXY,
    ),
    Tunable(
        "error_retry_schedule",
        SCHEDULE,
        (0.0, 0.25, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0),
        "the pause before each such try",
        _PROXY,
        "seconds",
    ),
    Tunable(
        "blind_proxy", BOOL, False, "leave X-Forwarded-For, X-Forwarded-Host, X-Host alone", _PROXY
    ),
    Tunable(
        "upload_status_listeners",
        ENDPOINTS,
        (),
        "upload_trackers that are told over UDP how far uploads are that ask for it "
        "(?client_up_sess=WORD), ip:port, ...",
        _PROXY,
    ),
    Tunable(
        "server_process",
        FILE,
        None,
        "a program that serves HTTP on its standard input",
        _PROXY,
        refused="run the program as a service of its own, and put its address into the pool",
    ),
    Tunable(
        "backend_connect_timeout",
        INT,
        5,
        "how long a node may take to accept a connection, and again to answer its OPTIONS",
        _PROXY,
        "seconds",
        own=True,
    ),
    Tunable(
        "backend_response_timeout",
        INT,
        0,
        "how long a node may be silent while it should answer; then 504; 0: for ever",
        _PROXY,
        "seconds",
        own=True,
    ),
    Tunable(
        "health_check_path",
        PATH,
        "",
        "what nodes are asked for now and then; one that does not answer 200 to 399, twice in a "
        "row, gets no requests until it does; unset: they are not asked",
        _PROXY,
        own=True,
    ),
    Tunable(
        "health_check_interval", INT, 5, "time between such checks", _PROXY, "seconds", own=True
    ),
    Tunable(
        "reproxy_prefixes",
        PREFIXES,
        (),
        "what nodes may name: /folder for files below it, http://host:port/path for URLs; "
        "unset: anything",
        _PROXY,
        own=True,
    ),
    Tunable(
        "sticky_cookie",
        TOKEN,
        "",
        "a cookie that tells clients' nodes, so that they come to the same one again; unset: they "
        "go to any",
        _PROXY,
        own=True,
    ),
    Tunable(
        "sticky_address",
        BOOL,
        False,
        "whether clients of one address go to the same node each time",
        _PROXY,
        own=True,
    ),
    Tunable(
        "queue_max_size",
        INT,
        0,
        "requests that may wait for a node; of more, the last one of the lowest queue is answered "
        "503; 0: any number",
        _PROXY,
        own=True,
    ),
    Tunable(
        "queue_timeout",
        INT,
        60,
        "how long a request may wait for a node; then 503; 0: for ever",
        _PROXY,
        "seconds",
        own=True,
    ),
)
