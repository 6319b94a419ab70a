"""The front page, signing up, logging in and out."""

from __future__ import annotations

import logging

from starlette.responses import RedirectResponse, Response

from lj_services.database import DatabaseError
from lj_services.journal import forms
from lj_services.journal.accounts import MISMATCH, Proof
from lj_services.journal.errors import TooManyFailures, WrongPassword
from lj_services.journal.friendspage import merged_page
from lj_services.journal.security import clearance
from lj_services.journal.text import clean
from lj_services.journal.throttle import device_cookie, place_of
from lj_services.journal.visit import DEVICE_COOKIE, NAME, SESSION_COOKIE, Visit
from lj_services.usercluster import BadName, NameTaken, User, UserClusterError, UserReadOnly

log = logging.getLogger(__name__)

NEWEST = 12
POSTS = 5
DEVICE_S = 400 * 86_400
RETRY_S = 30


def show(visit: Visit) -> Response:
    """What this is, who is new, and what they write."""
    with visit.timed("newest members"):
        newest = visit.kit.accounts.newest_members(NEWEST)
    members = list(visit.kit.users.get_many(newest).values())
    page = merged_page(
        visit.kit.recents,
        newest,
        lambda owner: clearance(owner, None, trusted=False),
        limit=POSTS,
    )
    return visit.render(
        "front.html", members=members, posts=page.posts, debug_owner=visit.viewer_id
    )


def sign_up_form(visit: Visit) -> Response:
    """The empty form."""
    return visit.render("signup.html", name="", errors={})


def sign_up(visit: Visit) -> Response:
    """Make the account, and log in."""
    name = clean(visit.form.get("name", "")).lower()
    password = visit.form.get("password", "")
    errors = {}
    if not NAME.fullmatch(name):
        errors["name"] = "A name has 1 to 25 of the letters a-z, digits and _."
    if problem := forms.password_problem(password, visit.form.get("again", "")):
        errors["password"] = problem
    if errors:
        return visit.render("signup.html", status=422, name=name[:100], errors=errors)
    try:
        user = visit.kit.accounts.sign_up(name, password)
    except (NameTaken, BadName) as error:
        message = (
            f"Somebody has the name {name} already." if isinstance(error, NameTaken) else str(error)
        )
        return visit.render("signup.html", status=422, name=name, errors={"name": message})
    try:
        return _enter(visit, user, "/?welcome=1")
    except (DatabaseError, UserClusterError) as error:
        # The account is there, whatever the page for this error would say.
        log.warning("a new user could not be logged in: %s", error, extra={"user": user.name})
        return _made_but_outside(visit, user)


def log_in_form(visit: Visit) -> Response:
    """The empty form."""
    return visit.render("login.html", name="", errors={}, next=visit.next_page())


def log_in(visit: Visit) -> Response:
    """Check the password, and log in."""
    name = clean(visit.form.get("name", "")).lower()[:25]
    key = visit.kit.secret
    place = place_of(key, name, visit.request.cookies.get(DEVICE_COOKIE), visit.address)
    password = visit.form.get("password", "")
    try:
        # What can't be right is not counted: it costs nothing, and would push real counts out.
        if not NAME.fullmatch(name) or len(password) > 1000:
            raise WrongPassword(MISMATCH)
        visit.kit.throttle.attempt(place, name)
        proof = visit.kit.accounts.check(name, password)
        visit.kit.throttle.succeeded(place, name)
        return _enter(visit, proof, visit.next_page())
    except WrongPassword as error:
        return visit.render(
            "login.html",
            status=422,
            name=name,
            errors={"password": str(error)},
            next=visit.next_page(),
        )
    except TooManyFailures as error:
        response = visit.render(
            "login.html",
            status=429,
            name=name,
            errors={"password": f"That was too often wrong: {error}."},
            next=visit.next_page(),
        )
        response.headers["Retry-After"] = str(error.wait_s)
        return response


def log_out(visit: Visit) -> Response:
    """End this session."""
    if visit.session is not None:
        visit.delete_cookie(SESSION_COOKIE)
        if not visit.session.sessionid:
            return visit.redirect("/")  # a ticket: with the cookie it is gone
        try:
            visit.kit.accounts.log_out(visit.session.user, visit.session.sessionid)
        except UserReadOnly:
            # The browser forgets it all the same; the row runs out by itself.
            return visit.render("goodbye.html", viewer=None)
    return visit.redirect("/")


def favicon(_: Visit) -> Response:
    """Browsers ask for it unasked."""
    return RedirectResponse("/static/pencil.svg", 301)


def _enter(visit: Visit, who: Proof | User, path: str) -> Response:
    user = who.user if isinstance(who, Proof) else who
    browser = clean(visit.request.headers.get("user-agent", ""))[:200]
    cookie = visit.kit.accounts.log_in(who, browser)
    visit.set_cookie(SESSION_COOKIE, cookie, visit.kit.accounts.session_s)
    visit.set_cookie(DEVICE_COOKIE, device_cookie(visit.kit.secret, user.name), DEVICE_S)
    return visit.redirect(path)


def _made_but_outside(visit: Visit, user: User) -> Response:
    response = visit.render(
        "login.html",
        status=503,
        name=user.name,
        errors={
            "password": f"Your journal {user.name} was made, but logging in did not work just now. "
            f"Log in here in a minute, with the password that you chose."
        },
        next="/?welcome=1",
    )
    response.headers["Retry-After"] = str(RETRY_S)
    return response
