"""Those who use the site for ``lj smoke``: their browsers, and how they are known again.

Each run uses the people of the run before, so that a site that is tested every hour is
not filled with people whom nobody knows.  Their passwords lie beside the site file, for
its owner alone (mode 0600).  Whoever is gone, or whose password is not the right one
any more, is replaced; where the file can't be written, every run has new people.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lj_services.cli.output import CommandError
from lj_services.daemon import ExitCode

TIMEOUT_S = 20
REFUSED = 422
"""Status of a form that the site did not accept."""
KEPT_FILE = "smoke-people.json"


class SmokeFailed(CommandError):
    """The site did not do what it should; the message says which step, and what it did.

    Args:
        message: what it was.
        status: of HTTP, if it was an answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class _Token(HTMLParser):
    """Finds the token in a page's forms."""

    def __init__(self) -> None:
        super().__init__()
        self.token = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "input" and found.get("name") == "csrf":
            self.token = found.get("value") or ""


class Person:
    """Somebody with a browser: cookies, pages, forms.

    Args:
        url: the site's front page.
        name: who they are on the site.
        password: theirs; None: a new one.
    """

    def __init__(self, url: str, name: str, password: str | None = None) -> None:
        self.name = name
        self.password = password or secrets.token_urlsafe(16)
        self._url = url.rstrip("/")
        self._browser = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(CookieJar())
        )

    def read(self, path: str, *, status: int = 200) -> str:
        """Get a page, which must answer with `status`.

        Raises:
            SmokeFailed: it answered otherwise.
            CommandError: the site can't be reached.
        """
        return self._ask(path, None, status)[0]

    def send(self, page: str, path: str, fields: Mapping[str, str]) -> str:
        """Fill in a form that `page` shows, and send it to `path`.

        Returns:
            the address that one ends up at, without the site's own.

        Raises:
            SmokeFailed, CommandError: as `read`.
        """
        parser = _Token()
        parser.feed(self.read(page))
        if not parser.token:
            raise SmokeFailed(f"{self._url}{page} shows no form")
        body = urllib.parse.urlencode({**fields, "csrf": parser.token}).encode()
        return self._ask(path, body, 200)[1]

    def sign_up(self) -> None:
        """Make the account."""
        fields = {"name": self.name, "password": self.password, "again": self.password}
        self.send("/signup", "/signup", fields)

    def log_in(self) -> bool:
        """Log in; False if the site says that name and password don't belong together.

        Raises:
            SmokeFailed, CommandError: as `read`.
        """
        try:
            self.send("/login", "/login", {"name": self.name, "password": self.password})
        except SmokeFailed as refused:
            if refused.status != REFUSED:
                raise
            return False
        return True

    def log_out(self) -> None:
        """End this session, so that those of earlier runs don't pile up."""
        self.send("/settings", "/logout", {})

    def _ask(self, path: str, body: bytes | None, status: int) -> tuple[str, str]:
        try:
            with self._browser.open(self._url + path, body, TIMEOUT_S) as answer:
                got, text, where = answer.status, answer.read().decode(), answer.geturl()
        except urllib.error.HTTPError as error:
            with error:
                got, text, where = error.code, error.read().decode(errors="replace"), error.url
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(
                f"{self._url} can't be reached: {getattr(error, 'reason', error)}; is the site "
                "running (lj journal serve), and is journal.url in the site file right?",
                ExitCode.UNREACHABLE,
            ) from None
        if got != status:
            raise SmokeFailed(f"{self._url}{path} answered {got} instead of {status}", got)
        return text, (where or "").removeprefix(self._url)


class KeptPerson(BaseModel):
    """Whom an earlier run signed up."""

    model_config = ConfigDict(frozen=True)

    name: str
    password: str


class Kept(BaseModel):
    """What one run leaves for the next."""

    model_config = ConfigDict(frozen=True)

    people: tuple[KeptPerson, ...] = ()
    post: str | None = None
    """Address of what the first of them wrote."""


def kept_file(site_file: Path) -> Path:
    """Where the people of a site are kept."""
    return site_file.absolute().with_name(KEPT_FILE)


def recall(file: Path) -> Kept:
    """What the run before left; nothing if there was none, or it can't be read."""
    try:
        return Kept.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return Kept()


def keep(file: Path, kept: Kept) -> None:
    """Leave something for the next run: whole or not at all, readable by the owner alone.

    Raises:
        OSError: the file can't be written.
    """
    descriptor, scratch = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:  # mkstemp made it 0600
            out.write(kept.model_dump_json(indent=2) + "\n")
        Path(scratch).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(scratch).unlink()
        raise
