"""Highpri: requests that go before others, by path, host, browser or any field.

::

    LOAD highpri
    CREATE SERVICE web
      SET role    = reverse_proxy
      SET pool    = webs
      SET listen  = 80
      SET plugins = highpri
      SET highpri.uri_pattern    = ^/interface/
      SET highpri.host_pattern   = ^pay\\.
      SET highpri.header_pattern = ^x-account: (paid|permanent)$
    ENABLE web

What matches any of the patterns waits in the high queue; there is ``agent_pattern``, too
(`_patterns`).  Unless it is set, ``uri_pattern`` is what LiveJournal's clients and log-ins used;
``none`` switches a pattern off.  ``patterns`` on the console shows them.

Source: Perlbal::Plugin::Highpri of Perlbal 1.80, which has the first two patterns.
"""

from __future__ import annotations

from lj_services.perlbal.plugins._patterns import ByPattern

_USUAL = rb"^(?:/interface/(?:xmlrpc|flat)|/login\.bml)$"


class Highpri(ByPattern):
    """The plug-in, for all services."""

    title = "Highpri"

    def __init__(self) -> None:
        super().__init__("make_high_priority", "patterns", "High priority pattern buffer:", _USUAL)


plugin = Highpri()
"""What LOAD takes; each balancer of a process shares it."""
