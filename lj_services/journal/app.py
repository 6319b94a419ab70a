"""The site as an ASGI application: which address leads to which page, and what surrounds a page.

One request::

    ASGI server -> headers and measures (`Surroundings`) -> route -> the form is read, on
    the event loop, bounded -> everything else in a thread: who is there, is the form's
    token right, the page function, the template -> response

Threads are the site's workers: SQL and cache calls block.  As many pages are made at once
as there are ``threads``; further requests wait on the event loop, which costs little.
So do those that hash a password beyond ``hash_slots``: waiting in threads, a crowd of
log-ins would leave none for all other pages.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import cached_property

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from prometheus_client import Counter, Histogram
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lj_services.daemon import ConfigError
from lj_services.database import Databases
from lj_services.gearman.client import Client as JobClient
from lj_services.journal.accounts import HASH_WAIT_S, Accounts
from lj_services.journal.cleaning import Cleaner
from lj_services.journal.config import JournalSettings
from lj_services.journal.errors import BadForm, Busy, FormRefused, FormTooLarge, JournalError
from lj_services.journal.forms import read_form
from lj_services.journal.gofer_rows import GoferRows
from lj_services.journal.looks import environment
from lj_services.journal.pages import friends, front, journal, posts, problems, settings
from lj_services.journal.recent import RecentCache, RowsOf
from lj_services.journal.throttle import Throttle
from lj_services.journal.visit import Kit, Visit
from lj_services.memcached.client import Client
from lj_services.usercluster import Users

log = logging.getLogger(__name__)

REQUESTS = Counter("lj_journal_requests_total", "requests answered", ("route", "method", "status"))
SECONDS = Histogram(
    "lj_journal_request_seconds",
    "time from a request's head to the end of its answer",
    ("route",),
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
LEAST_SECRET = 32

Page = Callable[[Visit], Response]


def rows_of(jobs: JobClient | None, settings: JournalSettings) -> RowsOf | None:
    """Who asks the clusters for posts; None: this process.

    Raises:
        ConfigError: gofers shall be asked, but there are no job servers.
    """
    if settings.cluster_reads == "direct":
        return None
    if jobs is None:
        raise ConfigError(
            "cluster_reads: gofer needs job servers; name them in [gearman] of the site file"
        )
    return GoferRows(jobs)


def make_app(
    databases: Databases,
    users: Users,
    cache: Client | None,
    settings_: JournalSettings,
    *,
    jobs: JobClient | None = None,
    url: str = "http://127.0.0.1:8080",
) -> Starlette:
    """Make the site.

    Args:
        databases: has ``global`` and the clusters, migrated.
        users: the site's users.
        cache: None for none; the site then works, only slower.
        settings_: the daemon's settings.
        jobs: the job servers; None for none: posts are then plain text.
        url: where the front page is reached from outside.

    Raises:
        ConfigError: the secret can't be read or is too short, or gofers shall be asked but
            there are no job servers.
    """
    secret = read_secret(settings_)
    kit = Kit(
        databases=databases,
        users=users,
        cache=cache,
        settings=settings_,
        url=url.rstrip("/"),
        secret=secret,
        accounts=Accounts(databases, users, settings_, secret),
        recents=RecentCache(
            databases,
            users,
            cache,
            posts=settings_.recent_posts,
            length=settings_.recent_excerpt,
            expire_s=settings_.recent_expire_s,
            rows=rows_of(jobs, settings_),
        ),
        throttle=Throttle(settings_.login_failures, settings_.login_window_s),
        cleaner=Cleaner(jobs, settings_.clean_timeout_s),
        templates=environment(),
    )
    app = Starlette(
        routes=_routes(kit),
        middleware=[Middleware(Surroundings, url=kit.url, hsts_s=settings_.hsts_s)],
        exception_handlers={HTTPException: _Unrouted(kit)},
    )
    app.state.kit = kit
    return app


def read_secret(settings_: JournalSettings) -> bytes:
    """What signs forms.

    Raises:
        ConfigError: the file can't be read or is too short.
    """
    file = settings_.secret_file
    if file is None:
        return secrets.token_bytes(LEAST_SECRET)
    try:
        secret = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"secret_file: {file}: {error.strerror}; make it with: "
            f"(umask 077; openssl rand -hex 32 > {file})"
        ) from None
    if len(secret) < LEAST_SECRET:
        raise ConfigError(
            f"secret_file: {file} has {len(secret)} bytes, {LEAST_SECRET} is the least; make it "
            f"with: (umask 077; openssl rand -hex 32 > {file})"
        )
    return secret


def _routes(kit: Kit) -> list[Route | Mount]:
    threads = _Threads(kit.settings)

    def route(
        path: str, *, get: Page | None = None, post: Page | None = None, hashes: bool = False
    ) -> Route:
        """`hashes`: the form makes the site hash a password."""
        methods = [name for name, page in (("GET", get), ("POST", post)) if page is not None]
        return Route(path, _endpoint(kit, threads, get, post, hashes), methods=methods)

    return [
        route("/", get=front.show),
        route("/signup", get=front.sign_up_form, post=front.sign_up, hashes=True),
        route("/login", get=front.log_in_form, post=front.log_in, hashes=True),
        route("/logout", post=front.log_out),
        route("/favicon.ico", get=front.favicon),
        route("/friends", get=friends.show),
        route("/post", get=posts.write_form, post=posts.write),
        route("/settings", get=settings.show),
        route("/settings/profile", post=settings.change_profile),
        route("/settings/password", post=settings.change_password, hashes=True),
        route("/settings/sessions/{sessionid:int}/end", post=settings.end_session),
        route("/users/{name}", get=journal.old_address),
        route("/~{name}", get=journal.show),
        route("/~{name}/profile", get=journal.show_profile),
        route("/~{name}/feed", get=journal.show_feed),
        route("/~{name}/friend", post=journal.add_friend),
        route("/~{name}/unfriend", post=journal.remove_friend),
        route("/~{name}/{postid:int}", get=posts.show),
        route("/~{name}/{postid:int}/edit", get=posts.change_form, post=posts.change),
        route("/~{name}/{postid:int}/delete", get=posts.remove_form, post=posts.remove),
        route("/~{name}/{postid:int}/comments", post=posts.comment),
        route("/~{name}/{postid:int}/comments/{commentid:int}/delete", post=posts.remove_comment),
        Route("/health", _health),
        Mount("/static", StaticFiles(packages=[("lj_services.journal", "static")])),
    ]


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n")


class _Threads:
    """How much is done at once; the limiters belong to the event loop that serves."""

    def __init__(self, settings_: JournalSettings) -> None:
        self._settings = settings_

    @cached_property
    def pages(self) -> CapacityLimiter:
        return CapacityLimiter(self._settings.threads)

    @cached_property
    def hashes(self) -> CapacityLimiter:
        return CapacityLimiter(self._settings.hash_slots)


@asynccontextmanager
async def _turn(limiter: CapacityLimiter) -> AsyncIterator[None]:
    """One of the limiter's places.

    Raises:
        Busy: none became free in time.
    """
    try:
        with anyio.fail_after(HASH_WAIT_S):
            await limiter.acquire()
    except TimeoutError:
        raise Busy("Too many people are logging in at this moment.") from None
    try:
        yield
    finally:
        limiter.release()


def _endpoint(
    kit: Kit, threads: _Threads, get: Page | None, post: Page | None, hashes: bool
) -> Callable[[Request], object]:
    """The two halves of a request: its form on the event loop, the rest in a thread."""
    limits = kit.settings

    async def endpoint(request: Request) -> Response:
        form: dict[str, str] = {}
        wrong: JournalError | None = None
        page = get
        if request.method == "POST":
            page = post
            try:
                form = await read_form(request, most=limits.max_form, drain=limits.max_drain)
            except (FormTooLarge, BadForm) as error:
                wrong = error
            except ClientDisconnect:
                return Response(status_code=400)
        assert page is not None
        visit = Visit(kit, request, form)
        async with AsyncExitStack() as stack:
            if hashes and request.method == "POST" and wrong is None:
                try:
                    await stack.enter_async_context(_turn(threads.hashes))
                except Busy as error:
                    wrong = error
            return await anyio.to_thread.run_sync(
                _answer, visit, page, wrong, limiter=threads.pages
            )

    return endpoint


def _answer(visit: Visit, page: Page, wrong: JournalError | None) -> Response:
    """Make the page; runs in a thread."""
    with ExitStack() as stack:
        if visit.wants_debug and visit.kit.cache is not None:
            visit.trace = stack.enter_context(visit.kit.cache.trace())
        try:
            if wrong is not None:
                raise wrong
            if visit.request.method == "POST" and not visit.has_valid_token():
                raise FormRefused(
                    "The form was open for too long, was sent twice after logging in or out, or "
                    "came from another site.  Nothing was saved.  Open the page again and send "
                    "it from there."
                )
            return page(visit)
        except Exception as error:
            return problems.page(visit, error)


class _Unrouted:
    """Pages for what no route takes: unknown addresses, wrong methods."""

    def __init__(self, kit: Kit) -> None:
        self._kit = kit

    async def __call__(self, request: Request, error: Exception) -> Response:
        visit = Visit(self._kit, request, {})
        return await anyio.to_thread.run_sync(problems.page, visit, error)


class Surroundings:
    """Around every answer: security headers, and figures by route.

    Figures carry the route's pattern, never the address, so that their number is bounded.

    Args:
        app: what answers.
        url: where the site is reached from outside.
        hsts_s: seconds for which a browser that came over https shall come no other way
            (RFC 6797); 0: it is not told.
    """

    def __init__(self, app: ASGIApp, url: str, hsts_s: int) -> None:
        self._app = app
        self._is_https = url.startswith("https://")
        self._headers = list(SECURITY_HEADERS.items())
        self._headers_of_https = list(self._headers)
        if hsts_s:
            self._headers_of_https.append(("Strict-Transport-Security", f"max-age={hsts_s}"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500
        is_https = self._is_https or scope["scheme"] == "https"
        security = self._headers_of_https if is_https else self._headers

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in security:
                    headers.setdefault(name, value)
                if scope["path"].startswith("/static/"):
                    headers.setdefault("Cache-Control", "public, max-age=3600")
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        finally:
            # Starlette leaves the route that matched in the scope.
            route = getattr(scope.get("route"), "path", "other")
            REQUESTS.labels(route, scope["method"], str(status)).inc()
            SECONDS.labels(route).observe(time.perf_counter() - start)
