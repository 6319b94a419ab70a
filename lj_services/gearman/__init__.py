"""Gearman: functions that programs call and other programs carry out, by way of a job server.

``protocol.py`` is the wire: every packet both ways, packets to bytes, and bytes to
packets and lines of text wherever they are cut.  It knows no sockets, so server, client
and worker share it.
"""
