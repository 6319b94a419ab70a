"""``lj smoke``: use the site as two people would, and show where every row lies."""

from __future__ import annotations

import secrets
import time
import urllib.parse
from collections.abc import Callable
from functools import partial
from typing import Any

import click
from sqlalchemy import Table, func, select

from lj_services.cli.errors import told
from lj_services.cli.output import CommandError, Output, json_option
from lj_services.cli.site import Site, pass_site
from lj_services.cli.smoke_people import (
    Kept,
    KeptPerson,
    Person,
    SmokeFailed,
    keep,
    kept_file,
    recall,
)
from lj_services.daemon import ExitCode
from lj_services.database import cluster_role
from lj_services.journal import tables
from lj_services.usercluster import UnknownUser, User
from lj_services.usercluster import tables as homes

MOST_SIGN_UPS = 24
NOT_THERE = 404
TEXT = "Two clusters, two friends, one page."


class Smoke:
    """The steps, and how long each took.

    Args:
        site: whose databases and caches are looked at.
        url: the site's front page.
    """

    def __init__(self, site: Site, url: str) -> None:
        self._site = site
        self._url = url
        self._file = kept_file(site.file)
        self._kept = recall(self._file)
        self._people: list[Person] = []
        self.steps: list[dict[str, Any]] = []
        self.not_kept = ""
        """Why the next run will not know these people; empty if it will."""

    def step(self, what: str, work: Callable[[], Any]) -> Any:
        """Do one step and note how long it took, in milliseconds."""
        start = time.perf_counter()
        result = work()
        elapsed_ms = round((time.perf_counter() - start) * 1000, 1)
        self.steps.append({"step": what, "ms": elapsed_ms})
        return result

    def people(self) -> list[tuple[Person, User]]:
        """Two people who live on two clusters, or on the only one: known ones, else new ones.

        The site draws a cluster for each new one; so sign up until two are met.
        """
        clusters = len(self._site.databases.clusters())
        weights = self._site.settings.users.cluster_weights
        taking = sum(1 for weight in weights.values() if weight) if weights else clusters
        wanted = min(2, clusters, taking)
        found: dict[int, tuple[Person, User]] = {}
        spare: list[tuple[Person, User]] = []

        def met(person: Person, user: User) -> bool:
            if user.clusterid in found:
                spare.append((person, user))
            found.setdefault(user.clusterid, (person, user))
            return len(found) >= wanted and len(found) + len(spare) >= 2

        def two() -> list[tuple[Person, User]]:
            return [*found.values(), *spare][:2]

        for known in self._kept.people:
            person = Person(self._url, known.name, known.password)
            try:
                user = self._site.users.find(known.name)
            except UnknownUser:
                continue
            if user.readonly or not self.step(f"{known.name} logs in", person.log_in):
                continue
            if met(person, user):
                return two()
        for _ in range(MOST_SIGN_UPS):
            person = Person(self._url, f"smoke_{secrets.token_hex(4)}")
            self.step(f"sign up {person.name}", person.sign_up)
            if met(person, self._site.users.find(person.name)):
                return two()
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
        self._people = [ann, ben]
        self._keep(self._kept.post)  # also if a step fails: then the next run has the same people
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
        self._clear_away(ann, path)
        self._expect("a stranger is refused", lambda: Person(self._url, "").read(path, status=404))
        answer = f"Seen from cluster {ben_user.clusterid}."
        self.step(
            f"{ben.name} comments", lambda: ben.send(path, f"{path}/comments", {"body": answer})
        )
        self._expect(f"{ann.name} reads the comment", lambda: ann.read(path), answer)
        self._expect(f"{ben.name} reads the friends page", lambda: ben.read("/friends"), subject)
        return [ann_user, ben_user]

    def leave(self) -> None:
        """Log everybody out.

        Raises:
            SmokeFailed, CommandError: that did not work.
        """
        for person in self._people:
            person.log_out()

    def _clear_away(self, ann: Person, path: str) -> None:
        """Delete what the run before wrote, now that there is something newer."""
        old = self._kept.post
        self._keep(path)
        if old is None or not old.startswith(f"/~{ann.name}/"):
            return
        try:
            self.step(
                f"{ann.name} deletes an old post",
                lambda: ann.send(f"{old}/delete", f"{old}/delete", {}),
            )
        except SmokeFailed as refused:
            if refused.status != NOT_THERE:  # somebody has deleted it already
                raise

    def _keep(self, post: str | None) -> None:
        people = tuple(
            KeptPerson(name=person.name, password=person.password) for person in self._people
        )
        try:
            keep(self._file, Kept(people=people, post=post))
        except OSError as error:
            self.not_kept = f"{self._file} can't be written ({error.strerror})"

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

    Two people on two clusters become friends, post, read the friends page and comment, all
    through HTTP; then it looks into the databases and the cache.  May be run at any time.
    The first run signs them up; their passwords are kept in smoke-people.json beside the
    site file, and later runs log in as them.
    """
    out = Output(as_json)
    address = url or site.settings.journal.url
    if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
        raise CommandError(f"--url {address}: write http://HOST:PORT", ExitCode.USAGE)
    with told():
        smoke = Smoke(site, address)
        people = smoke.run()
        rows, cached = smoke.rows(people), smoke.cached(people)
        smoke.leave()
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
    if smoke.not_kept:
        out.say(f"{smoke.not_kept}: the next run will sign up new people.")
    out.say("The site works: " + ", ".join(f"{name} on {home}" for name, home in where.items()))
