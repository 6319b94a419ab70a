"""The reverse proxy: clients' requests, nodes' responses.

- ``role.py``: which connection takes which request; opening, keeping and leaving out
- ``queues.py``: requests that wait
- ``weighing.py``, ``sticking.py``: to which node, where that is asked for
- ``exchange.py``: one request on its way; ``spool.py``: its body on the disk
- ``backend.py``: one connection to a node
- ``reproxy.py``: responses that name a file, URLs or a service instead
- ``fetching.py``: URLs, and connections to their servers; ``reproxy_cache.py`` remembers them
- ``headers.py``: what is passed on of heads; ``plain.py``: in one piece, where nothing is unusual
"""
