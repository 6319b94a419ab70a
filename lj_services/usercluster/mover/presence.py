"""A worker among others: its sign of life in `global`, and who else is there."""

from __future__ import annotations

import logging

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from lj_services.database import DatabaseError, Databases
from lj_services.usercluster.mover.tables import mover_worker, now_ms

log = logging.getLogger(__name__)

WORKER_SEEN_S = 15.0
FORGOTTEN_MS = 3_600_000


class Presence:
    """One worker's row.

    Args:
        databases: the site's.
        name: the worker's.
    """

    def __init__(self, databases: Databases, name: str) -> None:
        self.trouble: str | None = "starting"
        """Why the last sign of life could not be given; None: it was."""
        self._databases = databases
        self._name = name

    def sign_of_life(self) -> None:
        """Tell others that a worker is there.

        Raises:
            DatabaseError: ``global`` is out of reach.
        """
        try:
            self._sign()
        except DatabaseError as error:
            self.trouble = str(error)
            raise
        self.trouble = None

    def _sign(self) -> None:
        with self._databases.write("global") as connection:
            changed = connection.execute(
                update(mover_worker)
                .where(mover_worker.c.name == self._name)
                .values(seen_at=now_ms())
            ).rowcount
            if not changed:
                try:
                    connection.execute(
                        insert(mover_worker).values(name=self._name, seen_at=now_ms())
                    )
                except IntegrityError:
                    return
        if not changed:  # newly come: a good moment to forget those who have long gone
            with self._databases.write("global") as connection:
                connection.execute(
                    delete(mover_worker).where(mover_worker.c.seen_at < now_ms() - FORGOTTEN_MS)
                )

    def sign_off(self) -> None:
        """Tell others that it is gone."""
        try:
            with self._databases.write("global") as connection:
                connection.execute(delete(mover_worker).where(mover_worker.c.name == self._name))
        except DatabaseError as error:
            log.warning("could not sign off: %s", error)

    def others(self) -> list[str]:
        """The names of other workers that were heard of lately."""
        with self._databases.read("global", definitive=True) as connection:
            return list(
                connection.scalars(
                    select(mover_worker.c.name).where(
                        mover_worker.c.seen_at > now_ms() - int(WORKER_SEEN_S * 1000),
                        mover_worker.c.name != self._name,
                    )
                )
            )
