"""The web server: files of a folder to clients, and from clients when that is enabled.

- ``role.py``: which of these a request is, and small answers
- ``paths.py``: a target -> a file below the folder, and never one outside it
- ``documents.py``: what is known of files: size, dates, small ones' content
- ``ranges.py``: which part of a file a client wants
- ``sending.py``: large files, from the disk to the socket
- ``send_buffer.py``: more room in the socket of a client that reads fast
- ``listing.py``: a folder as a page
- ``concat.py``: several files at once
- ``storing.py``: PUT and DELETE
"""
