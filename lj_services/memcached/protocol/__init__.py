"""memcached's text protocol, sans-I/O: bytes to messages and back.

``commands`` are the requests, ``parser`` reads them as they arrive, ``replies``
are the answers.  The server and the client share all three; none of them knows
sockets, clocks or the cache.
"""
