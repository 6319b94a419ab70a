"""The LiveJournal backend as Python services.

One folder per system, the same shape inside each: ``protocol`` (bytes <->
messages, no sockets), files named for the state they hold, a thin ``server``,
a ``client`` for everybody else, a ``config``.  Each package's docstring is its
tour.  Who may import whom is written down, and checked, in pyproject.toml.

Bottom to top:

==============  ============================================================
daemon          what every daemon shares: config, lifecycle, logs, metrics
database        database roles (global, cluster N, ...) -> connections
perlbal         load balancer: configuration language, console, reverse proxy
gearman         job server, client, workers; dmap and the gofer on top
memcached       protocol, embedded server, client with the hash rings
usercluster     user -> cluster, numberspaces, the write fence; movers of users
journal         the sample site that uses everything above
cli             the operator's command, ``lj``
==============  ============================================================
"""

__version__ = "0.1.0"
