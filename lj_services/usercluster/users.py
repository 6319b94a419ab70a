"""`Users`: what programs do with users, over `global`, the clusters and the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from sqlalchemy import Connection, select, update

from lj_services.daemon import ConfigError
from lj_services.database import (
    Databases,
    DatabaseUnreachable,
    Position,
    WriterReadOnly,
    cluster_role,
)
from lj_services.usercluster import creation, fence, versions
from lj_services.usercluster.config import UserSettings
from lj_services.usercluster.errors import HomeMissing, NoCluster, UnknownUser
from lj_services.usercluster.numberspaces import HINTS_OPTION
from lj_services.usercluster.placement import Placement
from lj_services.usercluster.routes import COLUMNS, Cache, Routes, User, user_from_row
from lj_services.usercluster.tables import LIVE, user


class Users:
    """The site's users; thread-safe.

    Args:
        databases: has ``global`` and the clusters.
        cache: `lj_services.memcached`'s client, or None.
        settings: the ``[users]`` table of the site file.

    Raises:
        ConfigError: a weight names a cluster that there is not.
    """

    def __init__(self, databases: Databases, cache: Cache | None, settings: UserSettings) -> None:
        self._databases = databases
        self._cache = cache
        self._settings = settings
        self._routes = Routes(databases, cache, settings.route_ttl_s)
        known = databases.clusters()
        for table, named in (
            ("cluster_weights", settings.cluster_weights),
            ("clusters", settings.clusters),
        ):
            if unknown := set(named) - set(known):
                raise ConfigError(
                    f"users.{table}: there is no cluster {min(unknown)}; give it a role "
                    f"database.roles.cluster{min(unknown)}, or take it out"
                )
        self._placement = Placement(databases, settings.weights(known), settings.min_free)
        # Looking up is all that routes do: their methods are part of this front door.
        self.find = self._routes.find
        self.get = self._routes.get
        self.get_many = self._routes.get_many
        self.reload = self._routes.reload
        self.correct = self._routes.correct

    def create(
        self,
        name: str,
        *,
        cluster: int | None = None,
        within: Callable[[Connection, User], None] | None = None,
    ) -> User:
        """Make a user.

        Args:
            name: 1 to 25 of ``[a-z0-9_]``.
            cluster: where they shall live; None: drawn by weight and free space.
            within: called with a write connection to ``global`` and the user, in the
                transaction that makes the user exist: for what must exist with them
                (a password), or not at all.

        Raises:
            BadName, NameTaken, NoCluster, NoRoom: as their names say.
            UnknownVersion: ``new_schema_ver`` is one that this program does not know.
            DatabaseError: a database can't be reached; the same call may be repeated.
        """
        creation.check_name(name)
        if cluster is not None and cluster not in self._databases.clusters():
            known = ", ".join(map(str, self._databases.clusters())) or "none"
            raise NoCluster(f"there is no cluster {cluster}; there are: {known}")
        schema_ver = self._settings.new_schema_ver or versions.newest()
        versions.check(schema_ver)
        failed: set[int] = set()
        drawn = cluster if cluster is not None else self._placement.pick()

        def where(reserved: int | None) -> int:
            if cluster is not None or reserved is None or reserved in failed:
                return drawn
            return reserved if reserved in self._databases.clusters() else drawn

        while True:
            claim = creation.reserve(self._databases, name, where, self._cache)
            try:
                planted = creation.plant(self._databases, claim, schema_ver)
            except (DatabaseUnreachable, WriterReadOnly):
                if cluster is not None:
                    raise
                failed.add(claim.clusterid)
                drawn = self._placement.pick(excluding=failed)
                continue
            made = creation.enliven(self._databases, claim, planted, within)
            if made is not None:
                self._routes.remember(made)
                return made

    def list(self, cluster: int | None = None, *, after: int = 0, limit: int = 100) -> list[User]:
        """Users in order of userid.

        Args:
            cluster: only those who live there.
            after: only those with higher userids: the last one of the page before.
            limit: how many at most.
        """
        query = select(*COLUMNS).where(user.c.userid > after, user.c.state == LIVE)
        if cluster is not None:
            query = query.where(user.c.clusterid == cluster)
        with self._databases.read("global") as connection:
            rows = connection.execute(query.order_by(user.c.userid).limit(limit)).all()
        return [user_from_row(row) for row in rows]

    def set_readonly(self, userid: int, readonly: bool) -> User:
        """Forbid or allow writes for a user.

        When it returns with `readonly` set, every write that was under way has been
        committed or rolled back, and no other one is accepted.  After an error it may
        hold in part; the same call again puts it right.

        Raises:
            UnknownUser: there is none.
            UserBusy: the user is being moved for longer than ``freeze_wait_s``.
            HomeMissing: their cluster does not know them.
        """
        waiting = fence.Waiting(self._settings.freeze_wait_s)
        while True:
            verdict, found = self._try_readonly(userid, readonly)
            if verdict is fence.Verdict.GO:
                self._routes.remember(found)
                return found
            if verdict is fence.Verdict.STALE_ROUTE:
                raise HomeMissing(
                    f"userid {userid}: the fence on cluster {found.clusterid} contradicts global"
                )
            waiting.wait(userid, "being moved")

    def _try_readonly(self, userid: int, readonly: bool) -> tuple[fence.Verdict, User]:
        """Change fence and record under the lock of the record; nothing unless ``GO``."""
        with self._databases.write("global") as connection:
            row = connection.execute(
                select(*COLUMNS)
                .where(user.c.userid == userid, user.c.state == LIVE)
                .with_for_update()
            ).first()
            if row is None:
                raise UnknownUser(f"there is no user with userid {userid}")
            found = user_from_row(row)
            with self._databases.write(cluster_role(found.clusterid)) as on_cluster:
                verdict = fence.set_home_readonly(on_cluster, found, readonly)
            if verdict is fence.Verdict.GO:
                found = replace(found, readonly=readonly, rev=found.rev + 1)
                connection.execute(
                    update(user)
                    .where(user.c.userid == userid)
                    .values(readonly=readonly, rev=found.rev)
                )
        return verdict, found

    @contextmanager
    def writing(self, whom: int | User) -> Iterator[Connection]:
        """A write transaction on the user's cluster, behind their fence (see `fence`).

        The block runs once, at the place where the user lives by then: what needs to be
        tried again is tried before it.  `versions.of` says in which form rows are written.

        Args:
            whom: a userid, or a `User` that was just looked up, which saves a look-up.

        Raises:
            UnknownUser: there is none.
            UserReadOnly: they are read-only.
            UserBusy: a move held them for longer than ``freeze_wait_s``.
            UnknownVersion: their rows are in a version that this program does not know.
            DatabaseBusy: a lock or a deadlock; the whole block may be run again.
            DatabaseError, HomeMissing: as their names say.
        """
        route = whom if isinstance(whom, User) else self._routes.get(whom)
        with fence.writing(
            self._databases, route, self._routes.reload, self._settings.freeze_wait_s
        ) as connection:
            connection.execution_options(**{HINTS_OPTION: self._cache})
            yield connection

    @contextmanager
    def reading(self, whom: int | User, *, after: Position | None = None) -> Iterator[Connection]:
        """A connection that reads the user's cluster.

        Args:
            whom: a userid or a `User`.
            after: from `position`, to see one's own writes; if the user has moved since,
                the new cluster's writer answers.

        Raises:
            UnknownUser, DatabaseError: as their names say.
        """
        route = whom if isinstance(whom, User) else self._routes.get(whom)
        role = cluster_role(route.clusterid)
        moved = after is not None and after.role != role
        with self._databases.read(
            role, after=None if moved else after, definitive=moved
        ) as connection:
            yield connection

    def position(self, whom: int | User) -> Position:
        """How far the user's cluster has come: take it after a write, give it to `reading`."""
        route = whom if isinstance(whom, User) else self._routes.get(whom)
        return self._databases.position(cluster_role(route.clusterid))
