"""HTTP/1 as bytes: heads, bodies, answers.  No sockets, no event loop, no clock.

- ``parse.py``: bytes -> heads of requests and responses, strict against smuggling
- ``head.py``: what a head says
- ``known.py``: heads that have come before need not be read again
- ``incomplete.py``: what is no head yet, and whether it can become one
- ``chunked.py``: bodies sent in chunks
- ``answers.py``: the small responses that the balancer makes itself
- ``mime.py``: types of files, by their names
- ``errors.py``: what is wrong with a message, as a status
"""
