"""Tickets: log-ins of users who are read-only, signed instead of stored.

A log-in is a row on the user's cluster.  A read-only user has nothing written there, so who
logs in meanwhile gets a ticket: the cookie says itself who they are and until when, under the
site's signature.  With each request the site looks up whether the password is still the one
that the ticket was given for; so a new password ends it, as it ends every other log-in.

What a ticket lacks is an entry that could be taken away.  It is not in the list of log-ins;
a log-out makes the browser forget it, and a copy would hold on until it runs out.  That is
why it is good for one day (`TICKET_S`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

TICKET_S: Final = 86_400
"""Seconds that a ticket is good for."""
_TICKET = re.compile(r"(\d{1,10})-t(\d{1,16})-([A-Za-z0-9_-]{22})-([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a cookie says of itself; `is_signed` tells whether the site said so."""

    userid: int
    expires_ms: int
    nonce: str
    """Makes each ticket another one."""
    signature: str

    def __str__(self) -> str:
        """The cookie's value."""
        return f"{self.userid}-t{self.expires_ms}-{self.nonce}-{self.signature}"

    def is_signed(self, key: bytes, changed_ms: int) -> bool:
        """Whether it was issued with this key and for the password that was set at `changed_ms`.

        Takes the same time whatever it is.
        """
        signed = _sign(key, self.userid, self.expires_ms, self.nonce, changed_ms)
        return hmac.compare_digest(self.signature, signed)


def issue(key: bytes, userid: int, changed_ms: int, now_ms: int) -> Ticket:
    """A ticket for somebody who has shown their password.

    Args:
        key: the site's secret.
        userid: theirs.
        changed_ms: when that password was set.
        now_ms: the time.
    """
    expires_ms, nonce = now_ms + 1000 * TICKET_S, secrets.token_urlsafe(16)
    return Ticket(userid, expires_ms, nonce, _sign(key, userid, expires_ms, nonce, changed_ms))


def parse(cookie: str) -> Ticket | None:
    """The ticket that `cookie` is, signed or not; None if it is none."""
    match = _TICKET.fullmatch(cookie)
    return None if match is None else Ticket(int(match[1]), int(match[2]), match[3], match[4])


def _sign(key: bytes, userid: int, expires_ms: int, nonce: str, changed_ms: int) -> str:
    said = f"ticket\0{userid}\0{expires_ms}\0{nonce}\0{changed_ms}"
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()
