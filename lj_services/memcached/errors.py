"""What can go wrong between a program and its cache servers.

Two kinds.  The caller's own mistakes (`BadKey`, `BadValue`) are always raised.  A
`Fault` is the cache's: the client answers it as a miss and only raises it where
the caller asked for that (``raise_faults=True``).
"""

from __future__ import annotations


class MemcachedError(Exception):
    """Base of all errors of the memcached client."""


class BadKey(MemcachedError, ValueError):
    """The key can't travel in the protocol: a mistake of the calling program."""


class BadValue(MemcachedError, TypeError):
    """The serializer can't write this value: a mistake of the calling program."""


class Fault(MemcachedError):
    """The cache could not do its part; the message names the server."""


class ServerUnreachable(Fault):
    """No connection could be made; nothing was sent."""


class ServerTimeout(Fault):
    """The server did not answer in time; whether it carried out the command is unknown."""


class ConnectionLost(Fault):
    """The server closed the connection in the middle of an exchange."""


class ProtocolError(Fault):
    """The server sent what is no reply to what was asked; the connection is given up."""


class CommandRefused(Fault):
    """The server answered with ERROR, CLIENT_ERROR or SERVER_ERROR; the message has its text."""


class UnreadableValue(Fault):
    """The value in the cache can't be read: another program's format, or damaged."""
