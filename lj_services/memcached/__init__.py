"""memcached: the cache in front of the databases, as a server and as a client.

The server (``lj memcached serve``) is the embedded engine, for one box and for
tests; hosts in production run the real memcached.  A request on its way through
the server::

    server.py        Connection.data_received: bytes arrive, replies leave, nobody's
                     memory grows because a client doesn't read or sends half
    protocol/parser.py    bytes -> requests (commands.py), wherever the bytes are cut;
                     single lines are read by lines.py, flags of meta commands by meta.py
    engine.py        what each request does; meta_engine.py for mg, ms, md, ma, me
    items.py         the store: order of use, memory limit, cas uniques, flush
    expiry.py        finds expired items without looking at the others
    protocol/replies.py   the replies that are always the same

``statistics.py`` answers ``stats``, ``metrics.py`` Prometheus, ``config.py`` has
the settings, ``command.py`` the command.

The client (`client.Client`) spreads keys over the servers by one of two rings, so that
programs in other languages share the cache, and answers a fault of the cache as a
miss.  A call on its way::

    client.py        what programs call; keys.py checks their keys
    calls.py         writes the commands, checks that the replies fit them
    dispatch.py      keys -> servers by rings.py, without the dead ones (health.py);
                     what happens when a server fails
    pool.py          idle connections, shared by all threads
    connection.py    one exchange with each server, all side by side
    protocol/reply_parser.py    bytes -> replies, wherever the bytes are cut
    serializer.py    values <-> bytes and flags that other languages understand

``client_config.py`` has its settings; ``trace.py`` notes which server answered.

The protocol is the text protocol with the meta commands, as memcached 1.6.18
speaks it: doc/protocol.txt of memcached.  The binary protocol is refused.
"""
