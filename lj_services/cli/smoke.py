"""``lj smoke``: use the site as two people would, and show where every row lies."""

from __future__ import annotations

import http.client
import secrets
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from typing import Any

import click
from sqlalchemy import Table, func, select

from lj_services.cli.errors import told
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.daemon import ExitCode
from lj_services.database import cluster_role
from lj_services.journal import tables
from lj_services.usercluster import User
from lj_services.usercluster import tables as homes

TIMEOUT_S = 20
MOST_SIGN_UPS = 24
TEXT = "Two clusters, two friends, one page."


class SmokeFailed(CommandError):
    """The site did not do what it should; the message says which step, and what it did."""


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
        name: whom to sign up as.
    """

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.password = secrets.token_urlsafe(16)
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
            raise SmokeFailed(f"{self._url}{path} answered {got} instead of {status}")
        return text, (where or "").removeprefix(self._url)


class Smoke:
    """The steps, and how long each took.

    Args:
        site: whose databases and caches are looked at.
        url: the site's front page.
    """

    def __init__(self, site: Site, url: str) -> None:
        self._site = site
        self._url = url
        self.steps: list[dict[str, Any]] = []

    def step(self, what: str, work: Callable[[], Any]) -> Any:
        """Do one step and note how long it took, in milliseconds."""
        start = time.perf_counter()
        result = work()
        elapsed_ms = round((time.perf_counter() - start) * 1000, 1)
        self.steps.append({"step": what, "ms": elapsed_ms})
        return result

    def people(self) -> list[tuple[Person, User]]:
        """Sign up two people who live on two clusters, or on the only one.

        The site draws a cluster for each; so sign up until two are met.
        """
        clusters = len(self._site.databases.clusters())
        weights = self._site.settings.users.cluster_weights
        taking = sum(1 for weight in weights.values() if weight) if weights else clusters
        wanted = min(2, clusters, taking)
        found: dict[int, tuple[Person, User]] = {}
        spare: list[tuple[Person, User]] = []
        for _ in range(MOST_SIGN_UPS):
            person = Person(self._url, f"smoke_{secrets.token_hex(4)}")
            self.step(f"sign up {person.name}", person.sign_up)
            user = self._site.users.find(person.name)
            if user.clusterid in found:
                spare.append((person, user))
            found.setdefault(user.clusterid, (person, user))
            if len(found) >= wanted and len(found) + len(spare) >= 2:
                return [*found.values(), *spare][:2]
        raise SmokeFailed(
            f"{MOST_SIGN_UPS} people signed up, and all live on cluster {min(found)}: "
            "look at users.cluster_weights and at the free space of the others"
        )

    def run(self) -> list[User]:
        """All steps.

        Returns:
            the two users.

        Raises:
            SmokeFailed, CommandError: a step failed.
        """
        (ann, ann_user), (ben, ben_user) = self.people()
        for one, other in ((ann, ben), (ben, ann)):
            home = f"/~{other.name}"
            self.step(
                f"{one.name} lists {other.name} as a friend",
                partial(one.send, home, f"{home}/friend", {}),
            )
        subject = f"Smoke test {secrets.token_hex(4)}"
        fields = {"subject": subject, "body": TEXT, "security": "friends", "mood": "thorough"}
        path = self.step(
            f"{ann.name} posts for friends", lambda: ann.send("/post", "/post", fields)
        )
        self._expect("a stranger is refused", lambda: Person(self._url, "").read(path, status=404))
        answer = f"Seen from cluster {ben_user.clusterid}."
        self.step(
            f"{ben.name} comments", lambda: ben.send(path, f"{path}/comments", {"body": answer})
        )
        self._expect(f"{ann.name} reads the comment", lambda: ann.read(path), answer)
        self._expect(f"{ben.name} reads the friends page", lambda: ben.read("/friends"), subject)
        return [ann_user, ben_user]

    def _expect(self, what: str, work: Callable[[], str], text: str = "") -> None:
        page = self.step(what, work)
        if text not in page:
            raise SmokeFailed(f"{what}: the page does not show {text!r}")

    def rows(self, people: list[User]) -> list[dict[str, Any]]:
        """How many rows each user has, in which table of which role."""
        userids = {user.userid: user.name for user in people}
        found = []
        for role in self._site.databases.roles():
            with self._site.databases.read(role, definitive=True) as connection:
                for table in _tables_of(role):
                    counted = connection.execute(
                        select(table.c.userid, func.count())
                        .where(table.c.userid.in_(userids))
                        .group_by(table.c.userid)
                    )
                    found += [
                        {"user": userids[userid], "role": role, "table": table.name, "rows": count}
                        for userid, count in counted
                    ]
        return sorted(found, key=lambda row: (row["user"], row["role"] != "global"))

    def cached(self, people: list[User]) -> list[dict[str, Any]]:
        """On which cache server each user's values are."""
        cache = self._site.cache
        if cache is None:
            return []
        found = []
        for user in people:
            for key in (f"uid:{user.name}", f"user:{user.userid}", f"recent:{user.userid}"):
                pinned = key if key.startswith("uid:") else (user.userid, key)
                server = cache.server_for(pinned)
                found.append(
                    {
                        "user": user.name,
                        "key": key,
                        "server": str(server) if server is not None else "none alive",
                        "there": "yes" if cache.get(pinned) is not None else "no",
                    }
                )
        return found


def _tables_of(role: str) -> list[Table]:
    if role == "global":
        return [homes.user, tables.login]
    if role.startswith("cluster"):
        own = [table for table in tables.metadata.sorted_tables if table is not tables.login]
        return [homes.user_home, homes.usercounter, *own]
    return []


@click.command("smoke")
@click.option("--url", help="The site's front page.  Default: journal.url of the site file.")
@json_option
@pass_site
def command(site: Site, url: str | None, as_json: bool) -> None:
    """Use the site as two people would, and show where every row lies.

    Signs up two people with names of their own on two clusters, lets them be friends, post,
    read the friends page and comment, all through HTTP; then looks into the databases and
    the cache.  May be run at any time; the accounts stay.
    """
    out = Output(as_json)
    address = url or site.settings.journal.url
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise CommandError(f"--url {address}: write http://HOST:PORT", ExitCode.USAGE)
    with told():
        smoke = Smoke(site, address)
        people = smoke.run()
        rows, cached = smoke.rows(people), smoke.cached(people)
    where = {user.name: cluster_role(user.clusterid) for user in people}
    if as_json:
        out.document(
            {"url": address, "homes": where, "steps": smoke.steps, "rows": rows, "cached": cached}
        )
        return
    out.table(["step", "ms"], smoke.steps, title=f"Two people on {address}")
    out.say("")
    out.table(["user", "role", "table", "rows"], rows, title="Where every row lies")
    if cached:
        out.say("")
        out.table(["user", "key", "server", "there"], cached, title="What the cache knows")
    out.say("")
    out.say("The site works: " + ", ".join(f"{name} on {home}" for name, home in where.items()))
