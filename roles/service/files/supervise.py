"""Have supervisor run a program as it is defined now: ``supervise.py SOCKET NAME``.

Supervisor compares the files with what it runs, so this changes only what differs, and mends
what an interrupted run left behind.  Prints what it did, nothing if all was as it should be;
whether the program is well is not asked.  The calls are those of supervisor's XML-RPC API.
"""

import http.client
import socket
import sys
import xmlrpc.client


class Connection(http.client.HTTPConnection):
    """HTTP by way of a unix socket."""

    def __init__(self, path):
        super().__init__("localhost")
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.path)


class Transport(xmlrpc.client.Transport):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def make_connection(self, host):
        return Connection(self.path)


def supervise(supervisor, name):
    """What was done: ``added``, ``updated``, ``started`` or nothing."""
    ((added, changed, _),) = supervisor.reloadConfig()
    if name in changed:
        supervisor.stopProcessGroup(name)
        supervisor.removeProcessGroup(name)
    if name in changed + added:
        # Which starts it.
        supervisor.addProcessGroup(name)
        return "updated" if name in changed else "added"
    # One that has ended by itself is started again by supervisor, until it is given up: FATAL.
    if supervisor.getProcessInfo(name)["statename"] not in ("STOPPED", "FATAL"):
        return ""
    supervisor.startProcess(name, False)
    return "started"


def main(path, name):
    try:
        with xmlrpc.client.ServerProxy("http://localhost", Transport(path)) as server:
            print(supervise(server.supervisor, name))
    except xmlrpc.client.Fault as refused:
        sys.exit(f"{name}: {refused.faultString}")
    except OSError as error:
        sys.exit(f"{path}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
