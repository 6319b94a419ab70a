"""Perlbal: the HTTP load balancer and reverse proxy that a site's clients talk to.

It speaks the original's configuration language, in a file and live on its console, and what
Perlbal calls a service, a pool, a role or a tunable is called so here.

A request's way through a reverse proxy, and the files that it meets::

    listening.py         a service's address
      tls.py               certificates by host name, replaced while they are used
    frontend.py          ClientConnection: one client; requests in, responses out, in order
      access.py            the access log
      connection.py        its pace, its end, how long it may keep us waiting; connected.py: what
                           connections of all kinds have in common
      answering.py         what it tells whoever answers
      http/parse.py        bytes -> the request's head (http/head.py), strict against smuggling
      http/known.py        heads that have come before
      http/incomplete.py   what is no head yet, and whether it can become one
      http/chunked.py      bodies that come in chunks
    selector.py          (a service that gives the request to another one)
    proxy/role.py        ProxyRole: what becomes of it, whatever its node does
      proxy/connections.py which connection to a node takes it, and when to open more
      proxy/queues.py      high, normal, low: requests that wait
      proxy/spool.py       its body on the disk (inflow.py), and how far it is (proxy/progress.py)
      proxy/exchange.py    the request on its way; when it may be sent twice
      proxy/health.py      nodes are asked how they are, if that is wanted
      nodes.py             what is known of a node, and when it is left out
    proxy/backend.py     Backend: one connection to a node; the response back to the client
      proxy/connection.py  how it is made, proved and used up
      proxy/headers.py     who is believed, what is passed on
      proxy/plain.py       the same in one piece, where nothing is unusual
      http/parse.py        bytes -> the response's head

The role ``web_server`` is in ``web/``: files from the disk to clients, and back.

No step waits: a connection that is full tells the other side to stop, and nothing is kept
but what is on its way.  One object is made for each request (`proxy.exchange.Exchange`)
beside its two heads.

What there is, and what changes it::

    balancer.py          Balancer: all services, pools, nodes, plug-ins; carries out lines
    language.py          a line -> a command
    commands/            what each command does
    service.py           a service: role, parameters, plug-ins
    tunables/            the table of parameters (values.py: their kinds; parameters.py: the
                         values that a service has)
    pools.py             nodes by hand or from a file
    management.py        the console: lines of text, and pages for a browser
    hooks.py, plugin.py  where plug-ins come in, and how they are found; plugins/: the kit's

``workers/`` makes several processes of one, with one console; ``bus.py`` is what they tell each
other.

``server.py`` is the daemon, ``config.py`` its settings, ``command.py`` the command;
``client.py`` is what other programs speak to a console with, ``draining.py`` keeps a node out of
pools by it.
"""
