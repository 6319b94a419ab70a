"""The reverse proxy: clients' requests, nodes' responses.

- ``role.py``: which connection takes which request; opening, keeping and leaving out
- ``queues.py``: requests that wait
- ``exchange.py``: one request on its way
- ``backend.py``: one connection to a node
- ``headers.py``: what is passed on of heads
"""
