"""A visit: one request, from the browser's bytes to a rendered page.

`Visit` is what every page function gets: who is there, what they sent, and how to
answer.  It lives in one thread.  Three things are decided here for all pages:

- **Who is there** is looked up when it is first asked, once.
- **Forms**: every POST must carry the token that `csrf_token` put into the form; checked
  by `app` before the page function runs.
- **Read your own writes**: after a write, the browser is given the position of the
  cluster's writer in a short-lived cookie, and reads on that cluster wait for it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from lj_services.database import Databases, Position, cluster_role
from lj_services.journal import csrf
from lj_services.journal.accounts import Accounts, Session
from lj_services.journal.cleaning import Cleaner
from lj_services.journal.config import JournalSettings
from lj_services.journal.errors import LoginNeeded, NotFound
from lj_services.journal.friends import trusts
from lj_services.journal.recent import RecentCache
from lj_services.journal.security import Security, clearance
from lj_services.journal.throttle import Throttle
from lj_services.memcached.client import Client
from lj_services.memcached.trace import Trace
from lj_services.usercluster import UnknownUser, User, Users

SESSION_COOKIE = "lj_session"
FORM_COOKIE = "lj_form"
DEVICE_COOKIE = "lj_device"
SEEN_COOKIE = "lj_seen"
SEEN_S = 60
MOST_SEEN = 4
NAME = re.compile(r"[a-z0-9_]{1,25}")
_GTID = re.compile(r"[0-9A-Za-z:,-]{1,300}")
_LOCAL = re.compile(r"/[!-\[\]-~]*")
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Kit:
    """What the pages work with; one for the whole site."""

    databases: Databases
    users: Users
    cache: Client | None
    settings: JournalSettings
    url: str
    """Address of the front page, without a slash at the end."""
    secret: bytes
    accounts: Accounts
    recents: RecentCache
    throttle: Throttle
    cleaner: Cleaner
    templates: Environment


class Visit:
    """One request and its answer.

    Args:
        kit: the site.
        request: what came; its body has been read.
        form: the fields of its body; empty for a GET.
    """

    def __init__(self, kit: Kit, request: Request, form: Mapping[str, str]) -> None:
        self.kit = kit
        self.request = request
        self.form = form
        self.trace: Trace | None = None
        self.notes: list[str] = []
        self._started = time.perf_counter()
        self._cookies: list[tuple[str, str, int | None]] = []
        self._deleted: list[str] = []

    # -- who is there --------------------------------------------------------------

    @cached_property
    def session(self) -> Session | None:
        """The log-in of this browser, if there is one."""
        with self.timed("log-in"):
            return self.kit.accounts.session(self.request.cookies.get(SESSION_COOKIE))

    @property
    def viewer(self) -> User | None:
        """Who is logged in."""
        return self.session.user if self.session is not None else None

    @property
    def viewer_id(self) -> int | None:
        """The userid of who is logged in."""
        return self.session.user.userid if self.session is not None else None

    def need_viewer(self) -> User:
        """Who is logged in.

        Raises:
            LoginNeeded: nobody.
        """
        if self.viewer is None:
            raise LoginNeeded("Log in first, please.")
        return self.viewer

    @property
    def address(self) -> str:
        """The network address of the client, or what a trusted load balancer says it is."""
        return self.request.client.host if self.request.client is not None else ""

    # -- what is asked -------------------------------------------------------------

    def owner(self) -> User:
        """The user whose name is in the address.

        Raises:
            NotFound: there is none.
        """
        name = str(self.request.path_params["name"])
        if not NAME.fullmatch(name):
            raise NotFound("There is no such user.")
        try:
            return self.kit.users.find(name)
        except UnknownUser:
            raise NotFound(f"There is no user {name}.") from None

    def number(self, name: str) -> int:
        """A number in the address; 0, which nothing has, for one that is too large."""
        value = int(self.request.path_params[name])
        return value if value <= _LARGEST else 0

    def asked(self, name: str, default: int | None = None) -> int | None:
        """A number in the query string."""
        text = self.request.query_params.get(name, "")
        return int(text) if re.fullmatch(r"\d{1,9}", text) else default

    @contextmanager
    def reading(self, user: User, *, definitive: bool = False) -> Iterator[Connection]:
        """Read a user's cluster: at least what this browser has written there."""
        role = cluster_role(user.clusterid)
        with (
            self.timed(f"{role} ({user.name})"),
            self.kit.databases.read(
                role, after=self._seen.get(role), definitive=definitive
            ) as connection,
        ):
            yield connection

    @contextmanager
    def reading_cleared(self, owner: User) -> Iterator[tuple[Connection, Security]]:
        """Read a journal, and know how much of it the visitor may see.

        For somebody else who is logged in the writer is asked: a reader that is a little behind
        might not know yet that they are no longer a friend.
        """
        somebody_else = self.viewer_id not in (None, owner.userid)
        with self.reading(owner, definitive=somebody_else) as connection:
            yield connection, self.clearance(connection, owner)

    def clearance(self, connection: Connection, owner: User) -> Security:
        """What the visitor may see of a journal; `connection` reads the owner's cluster."""
        viewer = self.viewer_id
        trusted = (
            viewer is not None
            and viewer != owner.userid
            and trusts(connection, owner.userid, viewer)
        )
        return clearance(owner.userid, viewer, trusted=trusted)

    # -- the answer ----------------------------------------------------------------

    def render(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page.

        Args:
            template: its file.
            status: of HTTP.
            values: for the template; ``debug_owner`` is the userid of who may see the
                footer with ``?debug=1``.
        """
        debug_owner = values.pop("debug_owner", None)
        html = self.kit.templates.get_template(template).render(
            visit=self,
            viewer=self.viewer if "viewer" not in values else values.pop("viewer"),
            debug=self._debug_lines(debug_owner),
            **values,
        )
        return self.finish(
            HTMLResponse(html, status, headers={"Cache-Control": "private, no-cache"})
        )

    def redirect(self, path: str) -> Response:
        """After a form was accepted: GET `path`, so that reloading does not send it again."""
        return self.finish(RedirectResponse(path, 303))

    def finish(self, response: Response) -> Response:
        """Give a response the cookies that were set on the way."""
        for name, value, age_s in self._cookies:
            response.set_cookie(
                name, value, max_age=age_s, httponly=True, samesite="lax", secure=self.is_secure
            )
        for name in self._deleted:
            response.delete_cookie(name, httponly=True, samesite="lax", secure=self.is_secure)
        return response

    @property
    def is_secure(self) -> bool:
        """Whether cookies may travel over https alone."""
        return self.kit.url.startswith("https://") or self.request.url.scheme == "https"

    def set_cookie(self, name: str, value: str, age_s: int | None) -> None:
        """Set a cookie; `age_s` None: until the browser is closed."""
        self._cookies.append((name, value, age_s))

    def delete_cookie(self, name: str) -> None:
        """Let the browser forget a cookie."""
        self._deleted.append(name)

    def wrote(self, user: User) -> None:
        """Let this browser's next reads on the user's cluster see what was just written."""
        position = self.kit.users.position(user)
        if not position.gtid:
            return  # no replicas that could lag
        seen = {**self._seen, position.role: position}
        newest = list(seen.values())[-MOST_SEEN:]
        self.set_cookie(SEEN_COOKIE, "|".join(map(str, newest)), SEEN_S)

    @cached_property
    def _seen(self) -> dict[str, Position]:
        seen = {}
        for text in self.request.cookies.get(SEEN_COOKIE, "").split("|")[:MOST_SEEN]:
            role, _, gtid = text.partition("=")
            if _GTID.fullmatch(gtid):
                seen[role] = Position(role, gtid)
        return seen

    # -- forms ---------------------------------------------------------------------

    @cached_property
    def csrf_token(self) -> str:
        """The token for the forms of this page; sets the visitor's cookie if need be."""
        return csrf.token(self.kit.secret, self._form_binding(make=True))

    def has_valid_token(self) -> bool:
        """Whether the form came from a page of this site, shown to this browser."""
        binding = self._form_binding(make=False)
        return bool(binding) and csrf.is_valid(self.kit.secret, binding, self.form.get(csrf.FIELD))

    def _form_binding(self, *, make: bool) -> str:
        if self.session is not None:
            return f"session:{self.session.token_hash}"
        nonce = self.request.cookies.get(FORM_COOKIE)
        if not csrf.is_nonce(nonce):
            if not make:
                return ""
            nonce = csrf.new_nonce()
            self.set_cookie(FORM_COOKIE, nonce, None)
        return f"visitor:{nonce}"

    def next_page(self) -> str:
        """Where to go after logging in: a path of this site, never another site."""
        wanted = self.form.get("next") or self.request.query_params.get("next") or "/"
        if not _LOCAL.fullmatch(wanted) or wanted.startswith("//") or len(wanted) > 500:
            return "/"
        return wanted

    def login_path(self) -> str:
        """The log-in page, which leads back to this one."""
        here = self.request.url.path
        if self.request.method not in ("GET", "HEAD") or here in ("/", "/login", "/signup"):
            return "/login"
        return f"/login?{urlencode({'next': here})}"

    # -- ?debug=1 ------------------------------------------------------------------

    @property
    def wants_debug(self) -> bool:
        """Whether the footer shall tell who answered."""
        return self.request.query_params.get("debug") == "1"

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note how long a block took, for the footer."""
        if not self.wants_debug:
            yield
            return
        start = time.perf_counter()
        try:
            yield
        finally:
            self.notes.append(f"{what}: {(time.perf_counter() - start) * 1e3:.1f} ms")

    def _debug_lines(self, owner: int | None) -> list[str]:
        if not self.wants_debug or self.viewer_id is None or owner != self.viewer_id:
            return []
        assert self.viewer is not None
        lines = [f"{self.viewer.name} lives on cluster {self.viewer.clusterid}", *self.notes]
        if self.trace is not None:
            for server, outcomes in self.trace.servers().items():
                counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
                lines.append(f"cache {server}: {counts}")
        lines.append(f"page: {(time.perf_counter() - self._started) * 1e3:.1f} ms")
        return lines
