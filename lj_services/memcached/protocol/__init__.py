"""memcached's text protocol, sans-I/O: bytes to messages and back.

``commands`` are the requests, written by clients and read by the server with
``parser``; ``replies`` are the answers as the server sends them, and
``reply_parser`` is how a client reads them.  None of them knows sockets, clocks or
the cache.
"""
