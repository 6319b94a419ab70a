"""Forms: bounded bytes in, cleaned and checked values out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from starlette.requests import Request

from lj_services.journal import config
from lj_services.journal.errors import BadForm, FormTooLarge
from lj_services.journal.posts import Draft
from lj_services.journal.security import Security
from lj_services.journal.text import clean

MOST_FIELDS = 40
FORM_TYPE = "application/x-www-form-urlencoded"


async def read_form(request: Request, *, most: int, drain: int) -> dict[str, str]:
    """Read a form's fields, holding at most `most` bytes of it.

    What is too large is read on and dropped up to `drain` bytes, since a browser shows
    an answer only when it could send its request; beyond that the connection is closed.

    Raises:
        FormTooLarge: it has more than `most` bytes.
        BadForm: it is no form that this site sends.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
        raise BadForm(f"This page takes forms sent as {FORM_TYPE}.")
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdigit() and len(declared) < 16 else 0
    too_large = FormTooLarge(
        f"The form has more than {most // 1024} kB, which is the most that this site takes."
    )
    if size > drain:
        raise too_large
    body, received = bytearray(), 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > drain:
            raise too_large
        if received <= most:
            body += chunk
        else:
            body.clear()
    if received > most:
        raise too_large
    try:
        fields = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            max_num_fields=MOST_FIELDS,
            errors="replace",
        )
    except ValueError:
        raise BadForm("This is no form that this site sends.") from None
    return dict(fields)


@dataclass
class Checked:
    """A form's values, and what is wrong with them, by field."""

    values: dict[str, str]
    errors: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        return self.values[name]


def check_post(form: Mapping[str, str]) -> tuple[Checked, Draft]:
    """Check the form of a post.  The draft is good only if there are no errors."""
    checked = Checked(
        {
            "subject": clean(form.get("subject", "")),
            "body": clean(form.get("body", ""), lines=True),
            "mood": clean(form.get("mood", "")),
            "music": clean(form.get("music", "")),
            "security": form.get("security", "public"),
            "markup": "html" if form.get("markup") == "html" else "plain",
        }
    )
    _longest(checked, "subject", "The subject", config.MAX_SUBJECT)
    _longest(checked, "body", "The text", config.MAX_POST)
    _longest(checked, "mood", "The mood", config.MAX_MOOD)
    _longest(checked, "music", "The music", config.MAX_MUSIC)
    if not checked["body"]:
        checked.errors.setdefault("body", "Write something, please.")
    try:
        security = Security[checked["security"].upper()]
    except KeyError:
        # Never guess towards openness.
        checked.errors["security"] = "Choose who may read it."
        checked.values["security"] = "private"
        security = Security.PRIVATE
    draft = Draft(
        checked["subject"],
        checked["body"],
        security,
        checked["mood"],
        checked["music"],
        markup=checked["markup"] == "html",
    )
    return checked, draft


def check_comment(form: Mapping[str, str]) -> Checked:
    """Check the form of a comment."""
    checked = Checked({"body": clean(form.get("body", ""), lines=True)})
    _longest(checked, "body", "The comment", config.MAX_COMMENT)
    if not checked["body"]:
        checked.errors.setdefault("body", "Write something, please.")
    return checked


def check_profile(form: Mapping[str, str]) -> Checked:
    """Check the form of a journal's title and its owner's words about themselves."""
    checked = Checked(
        {
            "title": clean(form.get("title", "")),
            "about": clean(form.get("about", ""), lines=True),
        }
    )
    _longest(checked, "title", "The title", config.MAX_TITLE)
    _longest(checked, "about", "The text", config.MAX_ABOUT)
    return checked


def password_problem(password: str, again: str | None = None) -> str | None:
    """What is wrong with a new password; None if nothing is."""
    if len(password) < config.MIN_PASSWORD:
        return f"Take at least {config.MIN_PASSWORD} characters; a few words make a good one."
    if len(password) > config.MAX_PASSWORD:
        return f"Take at most {config.MAX_PASSWORD} characters."
    if again is not None and again != password:
        return "The two passwords differ."
    return None


def _longest(checked: Checked, name: str, what: str, most: int) -> None:
    length = len(checked[name])
    if length > most:
        checked.errors[name] = (
            f"{what} has {length:,} characters; {most:,} is the most.  "
            "Nothing is lost: shorten it here."
        )
