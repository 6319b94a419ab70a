"""HTTP/1 as bytes: heads, bodies, answers.  No sockets, no event loop, no clock.

- ``head.py``: heads of requests and responses, strict against smuggling
- ``chunked.py``: bodies sent in chunks
- ``answers.py``: the small responses that the balancer makes itself
- ``errors.py``: what is wrong with a message, as a status
"""
