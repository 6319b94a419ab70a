"""The sample site for tests: in this process (`journal`), and people who use it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from starlette.exceptions import StarletteDeprecationWarning

from lj_services import journal as journal_package
from lj_services.database import migrate
from lj_services.gearman.client import Client as JobClient
from lj_services.journal.app import make_app
from lj_services.journal.config import JournalSettings
from lj_services.journal.visit import Kit
from lj_services.memcached.client import Client
from lj_services.memcached.rings import Server
from lj_services.usercluster import User
from tests.support.databases import TestSite
from tests.support.memcached import Start

with warnings.catch_warnings():
    # It would rather have httpx's successor; it works with httpx as well.
    warnings.simplefilter("ignore", StarletteDeprecationWarning)
    from starlette.testclient import TestClient

PASSWORD = "correct horse"
CHEAP = {"hash_memory": 8 << 10, "hash_passes": 1}
_TOKEN = re.compile(r'name="csrf" value="([0-9a-f]{64})"')


def token_in(page: str) -> str:
    """The form token in a page; empty if it has no form."""
    match = _TOKEN.search(page)
    return match[1] if match else ""


class Person:
    """Somebody who uses the site through HTTP, as a browser does."""

    def __init__(self, client: httpx.Client, name: str = "") -> None:
        self.client = client
        self.name = name

    def get(self, path: str, **kwargs: Any) -> httpx.Response:
        return self.client.get(path, **kwargs)

    def token(self, page: str = "/post") -> str:
        """The token of the form on `page`."""
        return token_in(self.get(page).text)

    def send(
        self, path: str, fields: dict[str, str] | None = None, *, page: str = "/post", **kwargs: Any
    ) -> httpx.Response:
        """Send a form with the token that `page` shows."""
        data = {"csrf": self.token(page), **(fields or {})}
        return self.client.post(path, data=data, **kwargs)

    def sign_up(self, password: str = PASSWORD) -> Person:
        answer = self.send(
            "/signup",
            {"name": self.name, "password": password, "again": password},
            page="/signup",
        )
        assert answer.status_code == 200, answer.text
        return self

    def log_in(self, password: str = PASSWORD) -> httpx.Response:
        return self.send("/login", {"name": self.name, "password": password}, page="/login")

    def post(self, subject: str, body: str = "Text.", security: str = "public") -> int:
        """Publish; returns the postid."""
        answer = self.send("/post", {"subject": subject, "body": body, "security": security})
        assert answer.status_code == 200, answer.text
        return int(str(answer.url).rsplit("/", 1)[1])

    def befriend(self, other: Person) -> None:
        answer = self.send(f"/~{other.name}/friend")
        assert answer.status_code == 200, answer.text


class TestJournal:
    """The site in this process."""

    __test__ = False

    def __init__(
        self,
        site: TestSite,
        cache: Client | None,
        jobs: JobClient | None = None,
        *,
        loop: BlockingPortal | None = None,
        site_url: str = "http://testserver",
        **settings: Any,
    ) -> None:
        """
        Args:
            loop: the event loop that serves; None: each request gets one of its own.
        """
        self.site = site
        self._loop = loop
        self.cache = cache
        for role in site.databases.roles():
            migrate(site.databases, role, [journal_package.COMPONENT])
        self.users = site.users(cache)
        self.app = make_app(
            site.databases,
            self.users,
            cache,
            JournalSettings.model_validate({**CHEAP, **settings}),
            jobs=jobs,
            url=site_url,
        )
        self.kit: Kit = self.app.state.kit

    def visitor(self, name: str = "") -> Person:
        """Somebody with an empty browser."""
        client = TestClient(self.app, follow_redirects=True)
        client.portal = self._loop
        return Person(client, name)

    def member(self, name: str, cluster: int | None = None) -> Person:
        """Somebody who has an account, on a certain cluster if that matters, and is logged in."""
        if cluster is None:
            return self.visitor(name).sign_up()
        self.kit.accounts.sign_up(name, PASSWORD, cluster=cluster)
        person = self.visitor(name)
        assert person.log_in().status_code == 200
        return person

    def user(self, person: Person) -> User:
        return self.users.find(person.name)


MakeJournal = Callable[..., TestJournal]


@pytest.fixture
def make_journal(sqlite_site: TestSite, our_memcached: Start) -> Iterator[MakeJournal]:
    """Makes the site on SQLite and the kit's own cache server; keywords are settings."""
    with ExitStack() as stack:
        loop = stack.enter_context(start_blocking_portal())

        def make(
            *,
            site: TestSite = sqlite_site,
            cached: bool = True,
            jobs: JobClient | None = None,
            **settings: Any,
        ) -> TestJournal:
            cache = None
            if cached:
                cache = stack.enter_context(Client([Server("127.0.0.1", our_memcached().port)]))
            made = TestJournal(site, cache, jobs, loop=loop, **settings)
            stack.callback(made.kit.recents.close)
            return made

        yield make


@pytest.fixture
def journal(make_journal: MakeJournal) -> TestJournal:
    """The site with its usual settings."""
    return make_journal()
