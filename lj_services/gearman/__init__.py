"""Gearman: functions that programs call and other programs carry out, by way of a job server.

``protocol.py`` is the wire: every packet both ways (``packets.py``), packets to bytes, and
bytes to packets and lines of text wherever they are cut.  It knows no sockets, so server, client
and worker share it.

The server (``lj gearman serve``); a packet on its way through it::

    server.py      what it listens on; server_connection.py: bytes arrive, answers leave,
                   large data takes turns with others', and a slow reader is not waited for
                   and does not fill memory
    protocol.py    bytes -> packets and lines
    dispatch.py    what each packet does; admin.py: what each line is answered
    queues.py      all jobs: who shares one, who is given one, what happens when somebody
                   leaves or takes too long, as far as rules.py allows
    places.py      where a job is; waking.py: which sleepers are woken; timers.py, schedule.py:
                   what is due, what is late
    jobs.py        a job, a function with its queues, a connection

With ``persist`` set, background jobs are stored before they are acknowledged::

    ledger.py      what must be stored, and who waits for that
    commit.py      one batch after the other to the store, in a thread
    store.py       the tables (migrations/)

``metrics.py`` answers Prometheus, ``config.py`` has the settings, ``command.py`` the
command.  ``admin_client.py`` asks any Gearman server what an administrator wants to know.

What programs import::

    client.py      calls functions: one at a time, in the background, or in parallel
                   (taskset.py); async_client.py does the same for asyncio
    worker.py      offers functions and carries out calls (worker_jobs.py);
                   async_worker.py does many at a time in one event loop
    prefork.py     many worker processes under one parent
    dmap.py        map a function over workers
    gofer/         few database connections for many programs; a DB-API 2.0 driver
    client_errors.py   what can go wrong

What both kinds of clients and workers share knows no sockets::

    client_session.py  what becomes of tasks (tasks.py) on their way through all servers
                       (placement.py), of which each is a flight (flight.py)
    questions.py       what a client asks of servers themselves
    worker_session.py  which servers are connected to and asked (worker_link.py)
    connection.py      one connection, blocking; async_connection.py for asyncio
"""
