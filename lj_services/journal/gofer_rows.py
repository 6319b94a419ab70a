"""Queries on the clusters by way of gofers: scattered as jobs, gathered by who asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from lj_services.database import DatabaseUnreachable
from lj_services.gearman import gofer
from lj_services.gearman.client import Client

TIMEOUT_S: Final = 10.0


class GoferRows:
    """Runs queries on the writers of database roles; for many threads at once.

    Args:
        jobs: the job servers.
    """

    def __init__(self, jobs: Client) -> None:
        self._jobs = jobs

    def __call__(self, role: str, queries: Sequence[str]) -> Iterator[Sequence[Any]]:
        """The queries' rows.

        Raises:
            DatabaseUnreachable: no gofer answers for the role, or its database does not.
        """
        connection = gofer.connect(self._jobs, role, timeout_s=TIMEOUT_S)
        for sql in queries:
            try:
                yield from connection.cursor().execute(sql).fetchall()
            except gofer.Error as error:
                raise DatabaseUnreachable(f"{role}, by way of gofers: {error}") from error
