"""Wait until a service is well: ``ready.py URL|HOST:PORT SECONDS``.

A URL has to answer 200; an address has to accept a connection.  Ends with what
was wrong last, and exit code 1, when the time is over.
"""

import socket
import sys
import time
import urllib.request


def ask(target):
    """Raise OSError (urllib's errors are such) unless `target` is well."""
    if target.startswith("http"):
        # No proxy: the service is on this host or beside it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(target, timeout=5).close()
    else:
        host, _, port = target.rpartition(":")
        socket.create_connection((host, int(port)), timeout=5).close()


def main(target, seconds):
    deadline = time.monotonic() + float(seconds)
    while True:
        try:
            return ask(target)
        except OSError as error:
            if time.monotonic() > deadline:
                sys.exit(f"{target}: {error}")
        time.sleep(0.1)


if __name__ == "__main__":
    main(*sys.argv[1:])
