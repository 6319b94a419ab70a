"""What went wrong, as a page that says what to do.

================================  ======  ==================================================
 what                              status  why this one
================================  ======  ==================================================
 no such user, post, page          404     also for posts that are not open to the visitor
 not logged in                     303     to the log-in page, for a GET; else 403
 not allowed, forged form          403     trying again changes nothing
 user is read-only                 403     nothing is broken: the write is refused for now.
                                           Reading such a user's pages is an ordinary 200
                                           with a notice
 form too large, no form           413/415/400
 limit reached                     409
 user is being moved, busy         503     with Retry-After: the same form may be sent again
 a database is away                503     with Retry-After
 anything else                     500     logged with its traceback
================================  ======  ==================================================

What the visitor wrote is shown on the page, so that nothing is lost.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from lj_services.database import CommitUnknown, DatabaseBusy, DatabaseError, PoolExhausted
from lj_services.journal import errors
from lj_services.journal.visit import Visit
from lj_services.usercluster import (
    HomeMissing,
    NoCluster,
    UnknownUser,
    UnknownVersion,
    UserBusy,
    UserReadOnly,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """What a problem's page says."""

    status: int
    title: str
    text: str
    retry_s: int | None = None


READ_ONLY = (
    "This account is read-only for a moment, for maintenance: its pages can be read, but nothing "
    "new can be saved.  It will not take long; please try again a little later."
)
BUSY = "This is more than the site can do at this very moment.  Try again in a few seconds."


def explain(error: Exception) -> Problem:
    """What to tell the visitor about an error."""
    text = str(error)
    match error:
        case errors.NotFound() | UnknownUser():
            return Problem(404, "Not here", text)
        case errors.NotAllowed():
            return Problem(403, "Not allowed", text)
        case errors.LoginNeeded():
            return Problem(403, "Log in first", "You were not logged in, or not any more.")
        case errors.FormRefused():
            return Problem(403, "That form has expired", text)
        case errors.FormTooLarge():
            return Problem(
                413,
                "That is too much at once",
                f"{text}  Nothing was saved.  Go back in your browser: your text should still be "
                "there, and you can make it shorter.",
            )
        case errors.BadForm():
            return Problem(400, "That was no form", text)
        case errors.TooMany():
            return Problem(409, "That is the limit", text)
        case UserReadOnly():
            return Problem(403, "Read-only for a moment", READ_ONLY)
        case errors.Busy() | UserBusy() | DatabaseBusy() | PoolExhausted():
            return Problem(503, "One moment, please", f"{BUSY}  Nothing was saved.", 5)
        case CommitUnknown():
            return Problem(
                503,
                "Perhaps it was saved",
                "The database broke off just while saving.  Look whether it is there before "
                "you send it again.",
                30,
            )
        case DatabaseError() | HomeMissing() | NoCluster() | UnknownVersion():
            log.error("a page could not be made: %s", error)
            return Problem(
                503,
                "A database is away",
                "A part of the site can't be reached at this moment.  Nothing is lost; "
                "try again in a minute.",
                30,
            )
        case HTTPException():
            titles = {404: "Not here", 405: "Not that way"}
            texts = {404: "There is no such page.", 405: "This address does not do that."}
            title = titles.get(error.status_code, "That did not work")
            return Problem(error.status_code, title, texts.get(error.status_code, error.detail))
    log.error("a page failed", exc_info=error)
    return Problem(
        500, "Something broke", "That is the site's fault, not yours.  It has been noted down."
    )


def page(visit: Visit, error: Exception) -> Response:
    """The page for an error."""
    if isinstance(error, errors.LoginNeeded) and visit.request.method in ("GET", "HEAD"):
        return visit.finish(RedirectResponse(visit.login_path(), 303))
    problem = explain(error)
    try:
        viewer = visit.viewer
    except Exception:  # the very database that says who it is may be the one that is away
        viewer = None
        visit.session = None
    kept = [
        (label, visit.form[name])
        for name, label in (("subject", "Subject"), ("body", "Text"), ("about", "About"))
        if visit.form.get(name)
    ]
    response = visit.render(
        "problem.html", status=problem.status, problem=problem, kept=kept, viewer=viewer
    )
    if problem.retry_s is not None:
        response.headers["Retry-After"] = str(problem.retry_s)
    if isinstance(error, errors.FormTooLarge):
        response.headers["Connection"] = "close"
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response
