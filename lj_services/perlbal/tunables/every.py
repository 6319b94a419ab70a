"""Parameters that services of every role have."""

from __future__ import annotations

from typing import Final

from lj_services.perlbal.tunables.tunable import ROLES, Tunable
from lj_services.perlbal.values import (
    BOOL,
    FILE,
    FOLDER,
    INT,
    LISTEN,
    NETWORKS,
    OPTIONAL,
    SIZE,
    TEXT,
    WORDS,
)

TUNABLES: Final = (
    Tunable("role", TEXT, "", "what kind of service it is: " + ", ".join(ROLES)),
    Tunable("listen", LISTEN, None, "where it listens, ip:port, [ip]:port or port; unset: nowhere"),
    Tunable(
        "always_trusted",
        BOOL,
        False,
        "whether X-Forwarded-For and its like are believed, whoever sends them: only behind "
        "proxies of your own that clean them",
    ),
    Tunable(
        "trusted_upstream_proxies",
        NETWORKS,
        (),
        "networks (10.0.0.0/24, ...) of proxies whose X-Forwarded-For and its like are believed",
    ),
    Tunable(
        "client_sndbuf_size",
        SIZE,
        0,
        "the socket's send buffer, from the next ENABLE on; 0: the system's",
        unit="bytes",
    ),
    Tunable(
        "idle_timeout",
        INT,
        30,
        "how long a client may take to send a whole head, or be silent while it sends a body "
        "or should read a response",
        unit="seconds",
    ),
    Tunable("persist_client", BOOL, False, "whether clients' connections are kept open"),
    Tunable(
        "persist_client_idle_timeout",
        INT,
        30,
        "how long a client's connection is kept open between requests",
        unit="seconds",
    ),
    Tunable(
        "persist_client_timeout",
        INT,
        30,
        "sets both idle_timeout and persist_client_idle_timeout (deprecated)",
        unit="seconds",
    ),
    Tunable(
        "max_chunked_request_size",
        SIZE,
        200 << 20,
        "the largest body that a client may send in chunks; 0: any",
        unit="bytes",
    ),
    Tunable("server_tokens", BOOL, True, "whether own answers have a Server field"),
    Tunable("enable_ssl", BOOL, False, "whether clients speak TLS"),
    Tunable("ssl_cert_file", FILE, None, "certificate chain, PEM"),
    Tunable("ssl_key_file", FILE, None, "private key, PEM"),
    Tunable("ssl_ca_path", FOLDER, None, "folder of the certificates that vouch for clients'"),
    Tunable("ssl_cipher_list", TEXT, "ALL:!LOW:!EXP", "ciphers up to TLS 1.2, in OpenSSL's words"),
    Tunable(
        "ssl_verify_mode",
        INT,
        0,
        "whether clients show certificates: 0 no, 1 if they have one, 2 or 3 they must",
    ),
    Tunable("ssl_honor_cipher_order", BOOL, False, "whether the order of ciphers is ours"),
    Tunable("plugins", WORDS, (), "plug-ins that work on the service, in this order"),
    Tunable(
        "ssl_sni_path",
        FOLDER,
        None,
        "folder of further certificates, NAME.pem: each a chain and its key in one file; a client "
        "that asks for a host (SNI) gets the one that is for it, any other ssl_cert_file",
        own=True,
    ),
    Tunable(
        "access_log",
        OPTIONAL,
        "",
        "file that gets a line for each request of those who connect to the service; unset: none",
        own=True,
    ),
    Tunable("access_log_format", TEXT, "combined", "combined, common or json", own=True),
    Tunable(
        "error_pages",
        FOLDER,
        None,
        "folder with pages of your own, NNN.html, for errors that the balancer answers itself",
        own=True,
    ),
)
