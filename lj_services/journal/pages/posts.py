"""A post: shown with its comments, written, changed, deleted; and commenting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from starlette.responses import Response

from lj_services.journal import comments, forms, posts
from lj_services.journal.errors import NotAllowed, TooMany
from lj_services.journal.forms import Checked
from lj_services.journal.posts import Draft
from lj_services.journal.security import Security
from lj_services.journal.visit import Visit
from lj_services.usercluster import User

EMPTY = {
    "subject": "",
    "body": "",
    "mood": "",
    "music": "",
    "security": "public",
    "markup": "plain",
}


def show(visit: Visit) -> Response:
    """A post and a page of its discussion."""
    return _post_page(visit, visit.owner(), visit.number("postid"), reply=visit.asked("reply"))


def _post_page(
    visit: Visit,
    owner: User,
    postid: int,
    *,
    reply: int | None = None,
    draft: Checked | None = None,
    status: int = 200,
) -> Response:
    with visit.reading_cleared(owner) as (connection, cleared):
        post = posts.find(connection, owner.userid, postid, cleared)
        thread = comments.thread_page(
            connection,
            owner.userid,
            postid,
            page=visit.asked("page", 1) or 1,
            size=visit.kit.settings.thread_page_size,
        )
    authors = visit.kit.users.get_many({comment.authorid for comment in thread.comments})
    return visit.render(
        "post.html",
        status=status,
        owner=owner,
        post=post,
        thread=thread,
        authors=authors,
        reply=reply or 0,
        unchecked=visit.viewer_id == owner.userid and visit.asked("unchecked") == 1,
        draft=draft.values if draft is not None else {"body": ""},
        errors=draft.errors if draft is not None else {},
        debug_owner=owner.userid,
    )


def write_form(visit: Visit) -> Response:
    """The empty form of a new post."""
    visit.need_viewer()
    return _form(visit, EMPTY, {})


def write(visit: Visit) -> Response:
    """Publish a post."""
    author = visit.need_viewer()
    checked, draft = _checked_post(visit)
    if checked.errors:
        return _form(visit, checked.values, checked.errors, status=422)
    with visit.timed("write"):
        postid = posts.write(visit.kit.users, visit.kit.recents, author, draft)
    visit.wrote(author)
    return _written(visit, author, postid, checked, draft)


def change_form(visit: Visit) -> Response:
    """The form with a post's text."""
    author = _author(visit)
    post = _own_post(visit, author)
    values = {
        "subject": post.subject,
        "body": post.body,
        "mood": post.mood,
        "music": post.music,
        "security": post.security.name.lower(),
        "markup": "html" if post.markup else "plain",
    }
    return _form(visit, values, {}, post=post)


def change(visit: Visit) -> Response:
    """Replace a post's text."""
    author = _author(visit)
    postid = visit.number("postid")
    checked, draft = _checked_post(visit)
    if checked.errors:
        post = _own_post(visit, author)
        return _form(visit, checked.values, checked.errors, post=post, status=422)
    posts.change(visit.kit.users, visit.kit.recents, author, postid, draft)
    visit.wrote(author)
    return _written(visit, author, postid, checked, draft)


def remove_form(visit: Visit) -> Response:
    """Ask once more."""
    author = _author(visit)
    return visit.render("delete.html", owner=author, post=_own_post(visit, author))


def remove(visit: Visit) -> Response:
    """Delete a post and its comments."""
    author = _author(visit)
    posts.remove(visit.kit.users, visit.kit.recents, author, visit.number("postid"))
    visit.wrote(author)
    return visit.redirect(f"/~{author.name}")


def comment(visit: Visit) -> Response:
    """Add a comment."""
    author, owner = visit.need_viewer(), visit.owner()
    postid = visit.number("postid")
    parent_text = visit.form.get("parent", "0")
    parent = int(parent_text) if parent_text.isascii() and parent_text.isdigit() else 0
    parent = parent if parent < 2**31 else 0
    checked = forms.check_comment(visit.form)
    if not checked.errors:
        try:
            commentid = comments.write(
                visit.kit.users,
                visit.kit.recents,
                owner,
                author,
                postid,
                parent,
                checked["body"],
                most=visit.kit.settings.max_comments,
            )
        except (TooMany, NotAllowed) as error:
            checked.errors["body"] = str(error)
        else:
            visit.wrote(owner)
            page = visit.asked("page", 1)
            query = f"?page={page}" if page and page > 1 else ""
            return visit.redirect(f"/~{owner.name}/{postid}{query}#c{commentid}")
    return _post_page(visit, owner, postid, reply=parent, draft=checked, status=422)


def remove_comment(visit: Visit) -> Response:
    """Delete a comment."""
    viewer, owner = visit.need_viewer(), visit.owner()
    postid = visit.number("postid")
    comments.remove(
        visit.kit.users, visit.kit.recents, owner, viewer, postid, visit.number("commentid")
    )
    visit.wrote(owner)
    return visit.redirect(f"/~{owner.name}/{postid}#comments")


def _author(visit: Visit) -> User:
    """The owner of the journal in the address, who must be the one who is logged in."""
    viewer, owner = visit.need_viewer(), visit.owner()
    if viewer.userid != owner.userid:
        raise NotAllowed(f"Only {owner.name} can do that.")
    return viewer


def _own_post(visit: Visit, author: User) -> posts.Post:
    with visit.reading(author, definitive=True) as connection:
        return posts.find(connection, author.userid, visit.number("postid"), Security.PRIVATE)


def _checked_post(visit: Visit) -> tuple[Checked, Draft]:
    """The form of a post; HTML is cleaned, or is plain text where nobody could clean it."""
    checked, draft = forms.check_post(visit.form)
    if checked.errors or not draft.markup:
        return checked, draft
    with visit.timed("clean"):
        cleaned = visit.kit.cleaner.clean(draft.body)
    if cleaned is None:
        return checked, replace(draft, markup=False)
    if not cleaned.strip():
        checked.errors["body"] = "Nothing of this is allowed; write something else, please."
    return checked, replace(draft, body=cleaned)


def _written(visit: Visit, author: User, postid: int, checked: Checked, draft: Draft) -> Response:
    """On to the post, which says so if it could not be what it was meant to be."""
    unchecked = checked["markup"] == "html" and not draft.markup
    return visit.redirect(f"/~{author.name}/{postid}{'?unchecked=1' if unchecked else ''}")


def _form(
    visit: Visit,
    values: Mapping[str, str],
    errors: Mapping[str, str],
    *,
    post: posts.Post | None = None,
    status: int = 200,
) -> Response:
    return visit.render(
        "write.html",
        status=status,
        draft=values,
        errors=errors,
        post=post,
        debug_owner=visit.viewer_id,
    )
