"""The parameters that services have: name, kind, default, roles, meaning.

All of the original's 55 are here, under their names and with their defaults, and a few of
the kit's own (`Tunable.own`).  What is not carried out is refused when it is set to anything
but its default, with the reason (`Tunable.refused`): a configuration never says something
that is not so.

Source: Perlbal 1.80, doc/service-parameters.txt.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from lj_services.perlbal.errors import CommandError
from lj_services.perlbal.values import (
    BOOL,
    FILE,
    FOLDER,
    INT,
    LISTEN,
    NETWORKS,
    PERCENT,
    REGEXP,
    SCHEDULE,
    SIZE,
    TEXT,
    WORDS,
    Kind,
)

ROLES: Final = ("reverse_proxy", "web_server", "selector", "management", "upload_tracker")
"""What a service can be; plug-ins may add to it."""


@dataclass(frozen=True)
class Tunable:
    """One parameter of a service.

    Attributes:
        name: as in ``SET name = value``.
        kind: what values it takes.
        default: its value unless it is set.
        doc: what it does, for the operator.
        role: the only role that has it; empty: every role.
        unit: of a number.
        refused: why it is not carried out; empty: it is.
        own: whether the original does not have it.
    """

    name: str
    kind: Kind
    default: Any
    doc: str
    role: str = ""
    unit: str = ""
    refused: str = ""
    own: bool = False

    def parse(self, text: str, role: str) -> Any:
        """The value that `text` says, for a service of the role `role`.

        Raises:
            CommandError: the role has no such parameter, the value is none of its kind, or
                it asks for what is not carried out.
        """
        if self.role and role != self.role:
            raise CommandError(
                f"The '{self.name}' option can only be set on a '{self.role}' service"
            )
        try:
            value = self.kind.parse(text, self.name)
        except ValueError as error:
            # What was never set may be set to nothing, as a file's default path is.
            raise CommandError(str(error)) from None
        if self.refused and value != self.default:
            raise CommandError(f"'{self.name}' is not carried out: {self.refused}")
        return value


_PROXY = "reverse_proxy"
_WEB = "web_server"

_ALL = (
    # -- every role ---------------------------------------------------------------
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
        "client_sndbuf_size", SIZE, 0, "the socket's send buffer; 0: the system's", unit="bytes"
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
    # -- reverse proxy ------------------------------------------------------------
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
    Tunable("verify_backend_path", TEXT, "*", "the path of that OPTIONS request", _PROXY),
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
        "queue_relief_size",
        INT,
        0,
        "requests that must wait in the normal queue before relief begins; 0: no relief",
        _PROXY,
    ),
    Tunable(
        "queue_relief_chance",
        PERCENT,
        0,
        "then, how often the normal queue's turn comes before the high one's",
        _PROXY,
        "percent",
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
        WORDS,
        (),
        "who is told of uploads' progress over UDP, ip:port, ...",
        _PROXY,
        refused="the progress of uploads is not reported",
    ),
    Tunable(
        "server_process",
        FILE,
        None,
        "a program that serves HTTP on its standard input",
        _PROXY,
        refused="run the program as a service of its own, and put its address into the pool",
    ),
    # -- web server ---------------------------------------------------------------
    Tunable("docroot", FOLDER, None, "the folder whose files are served", _WEB),
    Tunable("dirindexing", BOOL, False, "whether folders without an index file are listed", _WEB),
    Tunable("index_files", WORDS, ("index.html",), "what is served for a folder", _WEB),
    Tunable("enable_put", BOOL, False, "whether PUT stores files", _WEB),
    Tunable("enable_delete", BOOL, False, "whether DELETE removes files", _WEB),
    Tunable("enable_md5", BOOL, True, "whether PUT checks Content-MD5", _WEB),
    Tunable("max_put_size", SIZE, 0, "the largest file that PUT stores; 0: any", _WEB, "bytes"),
    Tunable("min_put_directory", INT, 0, "levels of folders that PUT must find", _WEB),
    Tunable(
        "enable_concatenate_get",
        BOOL,
        False,
        "whether /folder/??a.js,b.js gives several files at once",
        _WEB,
    ),
    # -- selector -----------------------------------------------------------------
    Tunable("default_service", TEXT, "", "where requests go that nothing else takes", "selector"),
    Tunable("latency", INT, 0, "a pause before each request, for tests", "selector", "ms"),
    # -- the kit's own ------------------------------------------------------------
    Tunable(
        "ssl_sni_path",
        FOLDER,
        None,
        "folder of further certificates, NAME.pem: each a chain and its key in one file; a client "
        "that asks for a host (SNI) gets the one that is for it, any other ssl_cert_file",
        own=True,
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
        "access_log",
        TEXT,
        "",
        "file that gets a line for each request of those who connect to the service; unset: none",
        own=True,
    ),
    Tunable("access_log_format", TEXT, "combined", "combined, common or json", own=True),
    Tunable(
        "health_check_path",
        TEXT,
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
        "error_pages",
        FOLDER,
        None,
        "folder with pages of your own, NNN.html, for errors that the balancer answers itself",
        own=True,
    ),
    Tunable(
        "reproxy_prefixes",
        WORDS,
        (),
        "what nodes may name: /folder for files below it, http://host:port/path for URLs; "
        "unset: anything",
        _PROXY,
        own=True,
    ),
    Tunable(
        "queue_max_size",
        INT,
        0,
        "requests that may wait for a node; more are answered 503; 0: any number",
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

TUNABLES: Final[Mapping[str, Tunable]] = {tunable.name: tunable for tunable in _ALL}
"""By name."""


def nearest(name: str, known: Iterable[str], what: str) -> str:
    """A sentence about a name that is unknown, with the known ones that are most like it.

    Args:
        name: what was written.
        known: what may be written.
        what: is called so: ``service parameter``.
    """
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    return f"Unknown {what} '{name}'{hint}"


def table() -> str:
    """All parameters as a table in Markdown, for the guide."""
    lines = ["| parameter | role | default | meaning |", "|---|---|---|---|"]
    for tunable in _ALL:
        default = "" if tunable.default in (None, "", ()) else tunable.kind.show(tunable.default)
        unit = f" {tunable.unit}" if tunable.unit and default else ""
        doc = tunable.doc.replace("|", "\\|")
        doc += f" (refused: {tunable.refused})" if tunable.refused else ""
        doc += " (the kit's own)" if tunable.own else ""
        lines.append(f"| `{tunable.name}` | {tunable.role or 'all'} | {default}{unit} | {doc} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
