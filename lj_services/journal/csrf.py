"""Forms that only this site's own pages can send.

Each form carries a token: an HMAC over what only the visitor's browser holds in a
cookie.  For someone who is logged in that is the session, so a token dies with it; for
others (sign-up, log-in) a random cookie that is set when a form is first shown.  Another
site can make a browser send the cookies, but can't read them and so can't make the token.

Source: OWASP, "Cross-Site Request Forgery Prevention: signed double submit, bound to
the session".
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

FIELD = "csrf"
"""The hidden field's name."""
_NONCE = re.compile(r"[A-Za-z0-9_-]{22}")


def new_nonce() -> str:
    """What the cookie of someone who is not logged in holds."""
    return secrets.token_urlsafe(16)


def is_nonce(text: str | None) -> bool:
    """Whether `text` can be a value of `new_nonce`."""
    return _NONCE.fullmatch(text or "") is not None


def token(key: bytes, binding: str) -> str:
    """The token for forms of one browser.

    Args:
        key: the site's secret.
        binding: what the browser holds: ``session:...`` or ``visitor:...``.
    """
    return hmac.new(key, f"csrf\0{binding}".encode(), hashlib.sha256).hexdigest()


def is_valid(key: bytes, binding: str, given: str | None) -> bool:
    """Whether `given` is the token; takes the same time whatever it is."""
    return hmac.compare_digest(token(key, binding).encode(), (given or "").encode())
