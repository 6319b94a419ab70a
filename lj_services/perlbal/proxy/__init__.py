"""The reverse proxy: clients' requests, nodes' responses.

The way of a request about which nothing is unusual, call by call (what is indented is called by
what is above it)::

    frontend.ClientConnection.data_received         a client has sent bytes
      http.parse.parse_request                      bytes -> the head
      role.ProxyRole.start                          makes an Exchange; which queue it belongs to
        role.ProxyRole.request_backend              a free connection, or a place in the queue
          connections.Connections.take_bored
          backend.Backend.assign                    the head (plain.PlainHeads) to the node
    backend.Backend.data_received                   the node has answered
      http.parse.parse_response                     bytes -> the head
      headers.head_for_client                       it and the body to the client
      frontend.ClientConnection.done                the client may ask again
      connections.Connections.free                  the connection takes the next in the queue

Where something is unusual:

- ``role.py``: nodes that close, keep silent or fail
- ``connections.py``: no connection is free: when to open more, and which to keep; ``opening.py``,
  ``owner.py``: what it has in common with ``fetching.py``
- ``queues.py``: requests that wait; ``cookies.py``: in which queue
- ``weighing.py``, ``sticking.py``: to which node, where that is asked for
- ``health.py``: nodes are asked how they are
- ``exchange.py``: one request on its way, with a body; ``spool.py``: its body on the disk;
  ``progress.py``: how far it is
- ``backend.py``: responses in chunks, until the end, upgrades; ``connection.py``: how the
  connection is made and proved
- ``reproxy.py``: responses that name a file, URLs or a service instead
- ``fetching.py``: URLs, and connections to their servers; ``reproxy_cache.py`` remembers them
- ``headers.py``: what is passed on of heads; ``plain.py``: in one piece
"""
