"""The replies of memcached's text protocol.

Source: memcached's doc/protocol.txt as of 1.6.18, and the texts that 1.6.18 sends.
"""

from __future__ import annotations

from typing import Final

CRLF: Final = b"\r\n"
END: Final = b"END\r\n"
STORED: Final = b"STORED\r\n"
NOT_STORED: Final = b"NOT_STORED\r\n"
EXISTS: Final = b"EXISTS\r\n"
NOT_FOUND: Final = b"NOT_FOUND\r\n"
DELETED: Final = b"DELETED\r\n"
TOUCHED: Final = b"TOUCHED\r\n"
OK: Final = b"OK\r\n"
RESET: Final = b"RESET\r\n"
META_NOOP: Final = b"MN\r\n"

ERROR: Final = b"ERROR\r\n"
"""The command is unknown, or has too few or too many words."""


def client_error(text: str) -> bytes:
    """The client broke the protocol; `text` says how."""
    return b"CLIENT_ERROR %b\r\n" % text.encode()


def server_error(text: str) -> bytes:
    """The server can't do it; `text` says why."""
    return b"SERVER_ERROR %b\r\n" % text.encode()


BAD_LINE: Final = client_error("bad command line format")
BAD_CHUNK: Final = client_error("bad data chunk")
BAD_EXPTIME: Final = client_error("invalid exptime argument")
BAD_DELTA: Final = client_error("invalid numeric delta argument")
NOT_A_NUMBER: Final = client_error("cannot increment or decrement non-numeric value")
TOO_LARGE: Final = server_error("object too large for cache")
OUT_OF_MEMORY: Final = server_error("out of memory storing object")
