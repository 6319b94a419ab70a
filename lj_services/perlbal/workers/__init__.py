"""N processes on one port that look like one: ``lj perlbal serve --workers N``.

::

    master (Master)                          worker 1 .. N (WorkerService)
      sockets.py  binds, keeps and gives    --> listens, balances as one process does
      master.py   starts, replaces, ends    --> reads the configuration that it is given
      console.py  takes a line of a console --> carries it out
      merging.py  makes one answer of many  <--
      metrics.py  labels figures by worker  <--
      relay.py    passes on what one tells  <-> the others (`bus`): feeds, how far uploads are

What holds it together:

- Every address has one socket for each worker (SO_REUSEPORT: the system spreads connections
  evenly).  The master made them and keeps them open, so what waits to be accepted is never
  lost: neither when a worker dies, as the one in its place takes the same socket, nor at a
  restart, when new workers begin to accept before the old ones stop.
- The master has no configuration of its own.  What a console changes is carried out by the
  first worker; if that one does not refuse, by the others, and it is written down
  (`journal.Journal`) for those that come later.
- A restart starts a second generation of workers, with the configuration file as it is then.
  When all of them are ready the old ones drain; if one can't start, all of the new ones end,
  and nothing has happened.
- A worker ends when the master is gone (its end of `channel` closes).
"""
