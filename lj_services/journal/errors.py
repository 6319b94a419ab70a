"""What a page can't do, and why; `pages.problems` makes pages of them."""

from __future__ import annotations


class JournalError(Exception):
    """Base of this package's errors; the message is shown to the visitor."""


class NotFound(JournalError):
    """There is no such page, or the visitor may not know of it: both look alike."""


class NotAllowed(JournalError):
    """The visitor is known, and may not do that."""


class LoginNeeded(JournalError):
    """Only someone who is logged in can do that."""


class FormRefused(JournalError):
    """The form is forged, expired, or was not sent by this browser."""


class FormTooLarge(JournalError):
    """The form is larger than ``max_form``."""


class BadForm(JournalError):
    """The request's body is no form that this site sends."""


class TooMany(JournalError):
    """A limit of the site is reached: friends of a user, comments on a post."""


class WrongPassword(JournalError):
    """No user has that name and that password."""


class TooManyFailures(JournalError):
    """Too many wrong passwords for this name from this place; the message says when to retry."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"try again in {max(1, -(-wait_s // 60))} minutes")
        self.wait_s = wait_s


class Busy(JournalError):
    """The site has too much to do at this moment."""
