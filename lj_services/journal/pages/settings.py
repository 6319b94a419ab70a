"""One's own account: the journal's title, the password, where one is logged in."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import insert, select, update
from sqlalchemy.exc import IntegrityError
from starlette.responses import Response

from lj_services.journal import forms
from lj_services.journal.errors import TooManyFailures, WrongPassword
from lj_services.journal.tables import profile
from lj_services.journal.visit import SESSION_COOKIE, Visit
from lj_services.usercluster import User, Users


def show(visit: Visit) -> Response:
    """All of it on one page."""
    return _page(visit, visit.need_viewer())


def change_profile(visit: Visit) -> Response:
    """Set the journal's title and the words about oneself."""
    viewer = visit.need_viewer()
    checked = forms.check_profile(visit.form)
    if checked.errors:
        return _page(visit, viewer, errors=checked.errors, values=checked.values, status=422)
    _save_profile(visit.kit.users, viewer, checked.values)
    visit.wrote(viewer)
    return visit.redirect("/settings?saved=profile")


def change_password(visit: Visit) -> Response:
    """Set another password; all other log-ins end."""
    viewer = visit.need_viewer()
    assert visit.session is not None
    old, new = visit.form.get("old", ""), visit.form.get("password", "")
    errors = {}
    if problem := forms.password_problem(new, visit.form.get("again", "")):
        errors["password"] = problem
    else:
        place = f"session {visit.session.sessionid}"
        try:
            visit.kit.throttle.attempt(place, viewer.name)
            visit.kit.accounts.change_password(visit.session, old[:1000], new)
            visit.kit.throttle.succeeded(place, viewer.name)
        except WrongPassword:
            errors["old"] = "That is not your present password."
        except TooManyFailures as error:
            errors["old"] = f"That was too often wrong: {error}."
    if errors:
        return _page(visit, viewer, errors=errors, status=422)
    return visit.redirect("/settings?saved=password")


def end_session(visit: Visit) -> Response:
    """Log out in one place."""
    viewer = visit.need_viewer()
    sessionid = visit.number("sessionid")
    visit.kit.accounts.log_out(viewer, sessionid)
    if visit.session is not None and visit.session.sessionid == sessionid:
        visit.delete_cookie(SESSION_COOKIE)
        return visit.redirect("/")
    return visit.redirect("/settings?saved=session")


def _save_profile(users: Users, owner: User, values: Mapping[str, str]) -> None:
    while True:
        try:
            with users.writing(owner) as connection:
                changed = connection.execute(
                    update(profile).where(profile.c.userid == owner.userid).values(values)
                )
                if not changed.rowcount:
                    connection.execute(insert(profile).values(userid=owner.userid, **values))
            return
        except IntegrityError:
            continue  # another request saved the first profile in between: now it can be changed


def _page(
    visit: Visit,
    viewer: User,
    *,
    errors: Mapping[str, str] | None = None,
    values: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    if values is None:
        with visit.reading(viewer) as connection:
            row = connection.execute(
                select(profile.c.title, profile.c.about).where(profile.c.userid == viewer.userid)
            ).first()
        values = {"title": row.title, "about": row.about} if row else {"title": "", "about": ""}
    return visit.render(
        "settings.html",
        status=status,
        profile=values,
        errors=errors or {},
        sessions=visit.kit.accounts.sessions(viewer),
        saved=visit.request.query_params.get("saved", ""),
        debug_owner=viewer.userid,
    )
