"""Gearman: functions that programs call and other programs carry out, by way of a job server.

``protocol.py`` is the wire: every packet both ways, packets to bytes, and bytes to
packets and lines of text wherever they are cut.  It knows no sockets, so server, client
and worker share it.

The server (``lj gearman serve``); a packet on its way through it::

    server.py      Connection.data_received: bytes arrive, answers leave, a slow reader
                   is not waited for and does not fill memory
    protocol.py    bytes -> packets and lines
    dispatch.py    what each packet does; admin.py: what each line is answered
    queues.py      all jobs: who shares one, who is given one, what happens when somebody
                   leaves or takes too long; waking.py: which sleepers are woken
    jobs.py        a job, a function with its queues, a connection

``metrics.py`` answers Prometheus, ``config.py`` has the settings, ``command.py`` the
command.  ``admin_client.py`` asks any Gearman server what an administrator wants to know.

What programs import::

    client.py      calls functions: one at a time, in the background, or in parallel
                   (tasks.py, taskset.py, flight.py) over all servers (placement.py)
    worker.py      offers functions and carries out calls (worker_jobs.py); outlives its
                   servers' restarts (worker_link.py)
    prefork.py     many worker processes under one parent
    dmap.py        map a function over workers
    connection.py  a client's or worker's connection to one server
    client_errors.py   what can go wrong
"""
