"""The sample site: journals, friends, comments; it makes the other systems real.

Where things are, along the way of one request::

    server.py       the daemon: uvicorn, connections and their limits
    app.py          address -> page; forms on the loop, pages in threads; headers, figures
    forms.py        a form's bytes, bounded, become checked values
    visit.py        one request: who is there, form tokens, reading, rendering, ?debug=1
    pages/          a function per page; problems.py says what went wrong
    looks.py        templates/ and what they use; static/ has the one style sheet

what pages work with::

    security.py     who may see what: decided there and nowhere else
    accounts.py     sign-up, passwords, sessions     throttle.py, csrf.py   what guards them
    tickets.py      log-ins of users who are read-only
    posts.py        comments.py   friends.py         rows on the users' clusters
    recent.py       a user's newest posts as one cached value
    leases.py       what keeps old values out of the cache
    friendspage.py  many of them merged
    gofer_rows.py   the clusters asked by way of gofers, where that is set
    feed.py         a journal as Atom
    text.py         plain text in, HTML out
    cleaning.py     HTML of posts: workers clean it (sanitize.py, which only they load)
    tables.py       the tables; migrations/ makes them
    upgrades.py     the versions that a user's rows can be in

The friends page in one line: one query on the reader's cluster (friends, and who trusts
whom), one multi-get for all friends' newest posts, one query for each cluster with misses.
"""

from lj_services.database import Component

# Whoever has to do with the journal knows its numberspaces and versions, the mover as well.
from lj_services.journal import upgrades as upgrades

COMPONENT = Component("journal", "lj_services.journal")
"""The tables of this package, for ``lj db migrate``."""

__all__ = ["COMPONENT", "upgrades"]
