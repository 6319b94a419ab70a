"""Accounts: signing up, passwords, log-ins.

A password is kept in `global` as an argon2id hash, made in the transaction that makes
the user exist.  A log-in is a row on the user's cluster; the browser's cookie is
``userid-sessionid-token``, and the row holds only a hash of the token, so that whoever
reads the database can't become anybody.  The token is 256 random bits: a plain SHA-256
is enough for it.

Who is read-only has no row written, and gets a ticket instead (tickets.py).

A new password ends all log-ins that came before it.  A log-in whose password was checked just
before the change reads the time of the last change once more while its own row is not yet
committed: either it sees the change and is refused, or the change comes after that look, and
its sweep waits for the row and takes it away.  For that ``login.changed_ms`` rises with every
change, whatever the clock does.

A check costs tens of milliseconds and much memory by design; `Passwords` bounds how many
run at once.  A name that does not exist costs the same as a wrong password, and gets
the same answer.

Source: RFC 9106 (argon2), OWASP "Session Management".
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import Connection, delete, insert, select, update

from lj_services.database import Databases, cluster_role
from lj_services.journal import tickets
from lj_services.journal.clock import now_ms
from lj_services.journal.config import JournalSettings
from lj_services.journal.errors import Busy, WrongPassword
from lj_services.journal.tables import login, session
from lj_services.journal.tickets import Ticket
from lj_services.usercluster import UnknownUser, User, UserReadOnly, Users, numberspaces

HASH_WAIT_S = 10.0
MOST_SESSIONS = 50
MISMATCH = "That name and that password don't belong together."
_COOKIE = re.compile(r"(\d{1,10})-(\d{1,10})-([A-Za-z0-9_-]{43})")


class Passwords:
    """Makes and checks password hashes, a bounded number at once.

    Args:
        memory: bytes for one hash.
        passes: passes over it.
        slots: how many at once.
    """

    def __init__(self, memory: int, passes: int, slots: int) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory // 1024, parallelism=1)
        self._slots = threading.BoundedSemaphore(slots)
        self._of_nobody = self._hasher.hash(secrets.token_hex())

    def hash(self, password: str) -> str:
        """A hash with its salt and parameters, to be stored.

        Raises:
            Busy: no slot became free.
        """
        with self._slot():
            return self._hasher.hash(password)

    def matches(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the one; as slow for an account that does not exist (None).

        Raises:
            Busy: no slot became free.
        """
        with self._slot():
            try:
                self._hasher.verify(stored or self._of_nobody, password)
            except (VerificationError, InvalidHashError):
                return False
        return stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        if not self._slots.acquire(timeout=HASH_WAIT_S):
            raise Busy("Too many people are logging in at this moment.")
        try:
            yield
        finally:
            self._slots.release()


@dataclass(frozen=True, slots=True)
class Session:
    """A log-in: who, and where from."""

    user: User
    sessionid: int
    """0: a ticket, which has no row."""
    token_hash: str
    created_ms: int
    expires_ms: int
    browser: str


@dataclass(frozen=True, slots=True)
class Proof:
    """Somebody has shown their password."""

    user: User
    changed_ms: int
    """When that password was set: it holds for as long as no other one is."""


class Accounts:
    """The site's accounts.

    Args:
        databases: has ``global`` and the clusters.
        users: the site's users.
        settings: costs of a hash, length of a session.
        secret: the site's, which signs tickets.
    """

    def __init__(
        self, databases: Databases, users: Users, settings: JournalSettings, secret: bytes
    ) -> None:
        self._databases = databases
        self._users = users
        self._secret = secret
        self._session_ms = settings.session_days * 86_400_000
        self.session_s = settings.session_days * 86_400
        self.passwords = Passwords(settings.hash_memory, settings.hash_passes, settings.hash_slots)

    def sign_up(self, name: str, password: str, *, cluster: int | None = None) -> User:
        """Make a user who can log in.

        Args:
            name: see `Users.create`.
            password: at least `config.MIN_PASSWORD` characters, as the form checks.
            cluster: where they shall live; None: drawn.

        Raises:
            BadName, NameTaken, NoRoom, DatabaseError: as `Users.create`; no user was made.
        """
        hashed = self.passwords.hash(password)

        def within(connection: Connection, made: User) -> None:
            connection.execute(
                insert(login).values(userid=made.userid, password_hash=hashed, changed_ms=now_ms())
            )

        return self._users.create(name, cluster=cluster, within=within)

    def check(self, name: str, password: str) -> Proof:
        """Who has that name and that password.

        Raises:
            WrongPassword: nobody.
        """
        user, row = None, None
        try:
            user = self._users.find(name)
            with self._databases.read("global", definitive=True) as connection:
                row = connection.execute(
                    select(login.c.password_hash, login.c.changed_ms).where(
                        login.c.userid == user.userid
                    )
                ).first()
        except UnknownUser:
            pass
        stored = row.password_hash if row is not None else None
        if not self.passwords.matches(stored, password) or user is None or row is None:
            raise WrongPassword(MISMATCH)
        proof = Proof(user, int(row.changed_ms))
        if self.passwords.is_outdated(row.password_hash):
            # The same password in a new dress: no change.  Too late, if there was one.
            self._store(proof, password, proof.changed_ms)
        return proof

    def change_password(self, session_of: Session, old: str, new: str) -> None:
        """Set another password, and end all other log-ins.

        Raises:
            WrongPassword: `old` is not the present one, or not any more: of two changes at
                once, one is refused.
            UserReadOnly, UserBusy, DatabaseError: the old password stays, or, when only the
                other log-ins could not be ended, the new one holds already.
        """
        user = self._users.reload(session_of.user.userid)
        if user.readonly:
            raise UserReadOnly(f"{user.name} is read-only: the password was not changed")
        proof = self.check(user.name, old)
        if not self._store(proof, new, max(now_ms(), proof.changed_ms + 1)):
            raise WrongPassword(MISMATCH)
        with self._users.writing(user) as connection:
            connection.execute(
                delete(session).where(
                    session.c.userid == user.userid, session.c.sessionid != session_of.sessionid
                )
            )

    def log_in(self, who: Proof | User, browser: str) -> str:
        """Start a session; for somebody who has shown their password and is read-only, a ticket.

        Args:
            who: who has shown their password; or a user who was made just now.
            browser: what it calls itself, for the list of log-ins.

        Returns:
            the cookie's value.

        Raises:
            WrongPassword: the password that was shown is not theirs any more.
            UserReadOnly, UserBusy, DatabaseError: as `Users.writing`.
        """
        if not isinstance(who, Proof):
            return self._store_log_in(who, browser)
        try:
            return self._store_log_in(who, browser)
        except UserReadOnly:
            userid = who.user.userid
            return str(tickets.issue(self._secret, userid, who.changed_ms, now_ms()))

    def _store_log_in(self, who: Proof | User, browser: str) -> str:
        user = who.user if isinstance(who, Proof) else who
        token = secrets.token_urlsafe(32)
        now = now_ms()
        with self._users.writing(user) as connection:
            own = session.c.userid == user.userid
            connection.execute(delete(session).where(own, session.c.expires_ms <= now))
            kept = connection.scalars(
                select(session.c.sessionid).where(own).order_by(session.c.sessionid.desc())
            ).all()
            if len(kept) >= MOST_SESSIONS:
                last = kept[MOST_SESSIONS - 1]
                connection.execute(delete(session).where(own, session.c.sessionid <= last))
            sessionid = numberspaces.allocate(connection, user.userid, "session")
            connection.execute(
                insert(session).values(
                    userid=user.userid,
                    sessionid=sessionid,
                    token_hash=_hash(token),
                    created_ms=now,
                    expires_ms=now + self._session_ms,
                    browser=browser[:200],
                )
            )
            if isinstance(who, Proof) and not self._holds(who):
                raise WrongPassword(MISMATCH)
        return f"{user.userid}-{sessionid}-{token}"

    def session(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None if there is none, or not any more.

        Asks the writer: a log-out counts at once.

        Raises:
            DatabaseError: the user's cluster can't be asked.
        """
        match = _COOKIE.fullmatch(cookie or "")
        if match is None:
            ticket = tickets.parse(cookie or "")
            return None if ticket is None else self._session_of(ticket)
        userid, sessionid, hashed = int(match[1]), int(match[2]), _hash(match[3])
        try:
            user = self._users.get(userid)
        except UnknownUser:
            return None
        with self._databases.read(cluster_role(user.clusterid), definitive=True) as connection:
            row = connection.execute(
                select(session).where(session.c.userid == userid, session.c.sessionid == sessionid)
            ).first()
        if row is None or not hmac.compare_digest(row.token_hash, hashed):
            return None
        if row.expires_ms <= now_ms():
            return None
        return Session(user, sessionid, hashed, row.created_ms, row.expires_ms, row.browser)

    def _session_of(self, ticket: Ticket) -> Session | None:
        changed_ms = self._changed_ms(ticket.userid)
        now = now_ms()
        if changed_ms is None or not ticket.is_signed(self._secret, changed_ms):
            return None
        if ticket.expires_ms <= now:
            return None
        try:
            user = self._users.get(ticket.userid)
        except UnknownUser:
            return None
        return Session(user, 0, _hash(ticket.signature), now, ticket.expires_ms, "")

    def sessions(self, user: User) -> Sequence[Session]:
        """All log-ins of a user, newest first."""
        with self._databases.read(cluster_role(user.clusterid), definitive=True) as connection:
            rows = connection.execute(
                select(session)
                .where(session.c.userid == user.userid, session.c.expires_ms > now_ms())
                .order_by(session.c.sessionid.desc())
            ).all()
        return [
            Session(
                user, row.sessionid, row.token_hash, row.created_ms, row.expires_ms, row.browser
            )
            for row in rows
        ]

    def log_out(self, user: User, sessionid: int) -> None:
        """End one session; harmless if it is over.

        Raises:
            UserReadOnly, UserBusy, DatabaseError: it goes on.
        """
        with self._users.writing(user) as connection:
            connection.execute(
                delete(session).where(
                    session.c.userid == user.userid, session.c.sessionid == sessionid
                )
            )

    def newest_members(self, count: int) -> Sequence[int]:
        """Userids of those who signed up last."""
        with self._databases.read("global") as connection:
            query = select(login.c.userid).order_by(login.c.userid.desc()).limit(count)
            return list(connection.scalars(query))

    def _holds(self, proof: Proof) -> bool:
        """Whether the password is still the one that was shown."""
        return self._changed_ms(proof.user.userid) == proof.changed_ms

    def _changed_ms(self, userid: int) -> int | None:
        """When a user's password was set; None: there is no such user."""
        with self._databases.read("global", definitive=True) as connection:
            return connection.scalar(select(login.c.changed_ms).where(login.c.userid == userid))

    def _store(self, proof: Proof, password: str, changed_ms: int) -> bool:
        """Store a hash in place of the one that was checked; False if that has gone."""
        hashed = self.passwords.hash(password)
        with self._databases.write("global") as connection:
            stored = connection.execute(
                update(login)
                .where(login.c.userid == proof.user.userid, login.c.changed_ms == proof.changed_ms)
                .values(password_hash=hashed, changed_ms=changed_ms)
            )
        return bool(stored.rowcount)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
