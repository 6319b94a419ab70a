"""The power-pull validator: does this disk keep what fsync promised?

After LiveJournal's diskchecker.pl.  One machine keeps its power and the record
(`disk-checker listen`); the other writes, syncs and reports (`create`) until its plug is
pulled; when it is back, what the record says was acknowledged must be there (`verify`).
`run` does whole cycles from the operator's desk.

One write on its way through the files:

- ``workloads`` chooses a block, ``writer`` announces it over ``uplink`` (in the messages
  of ``protocol``), ``listener`` appends the intent to the run's journal in ``ledger``,
  fsyncs, grants it;
- ``stamp`` builds the block in ``slots``: every sector says run, place, sequence number and
  time and carries a checksum; a ``chain`` has the C library write and sync it by ``aio``, or
  a ``lane`` hands it to a ``worker``, a process that only writes and syncs by ``target`` (a
  database's commits share their syncs by ``groupsync``); ``claim`` looked before whether it
  may be written;
- what is synced ``writer`` acknowledges over ``uplink``;
- after the cut, ``reach`` finds and mounts the target, and ``verify`` has all blocks read
  beside the journal's states, which ``fold`` makes, by the processes of ``examine``: ``scan``
  recognises those that are right, ``classify`` judges every other; ``result`` counts and gives
  the verdict, ``statistics`` says what it proves, ``report`` prints it with ``advice`` from
  what ``hostfacts`` found.

``cycle`` repeats this with a ``victim`` and its power switch; ``gate`` reads the reports and
says whether a host may hold data.  This package stands alone: it imports nothing of the rest
of the kit, and needs click, pydantic and rich (fabric for hosts by ssh).
"""
