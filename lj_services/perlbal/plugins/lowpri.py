"""Lowpri: requests that others go before, by path, host, browser or any field.

::

    LOAD lowpri
    CREATE SERVICE web
      SET role    = reverse_proxy
      SET pool    = webs
      SET listen  = 80
      SET plugins = lowpri
      SET lowpri.agent_pattern  = (?i)bot|crawl|spider|slurp|^$
      SET lowpri.uri_pattern    = ^/(data/rss|tools/search)
      SET lowpri.header_pattern = ^from: .*@
      SET queue_relief_age      = 10
      SET queue_relief_chance   = 10
    ENABLE web

What matches any of the patterns (`_patterns`) waits in the low queue, and has its share of turns
by relief.  No pattern is set at first; ``none`` switches one off.  ``lowpatterns`` on the console
shows them.  Addresses are AccessControl's business: ``ACCESS QUEUE_LOW``.  Not in the original.
"""

from __future__ import annotations

from lj_services.perlbal.plugins._patterns import ByPattern


class Lowpri(ByPattern):
    """The plug-in, for all services."""

    title = "Lowpri"

    def __init__(self) -> None:
        super().__init__("make_low_priority", "lowpatterns", "Low priority pattern buffer:")


plugin = Lowpri()
"""What LOAD takes; each balancer of a process shares it."""
