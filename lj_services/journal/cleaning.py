"""The site's side of cleaning HTML: workers do it (see `sanitize`), this asks them.

When no worker answers in time, nothing that is unsafe is kept: the text is stored as
plain text, and the author is told.
"""

from __future__ import annotations

import logging

from prometheus_client import Counter

from lj_services.gearman.client import Client, Priority
from lj_services.gearman.client_errors import GearmanError

log = logging.getLogger(__name__)

FUNCTION = "journal.clean_html"
"""The Gearman function that the workers offer."""
CLEANED = Counter("lj_journal_cleaned_total", "posts whose HTML was to be cleaned", ("result",))


class Cleaner:
    """Asks workers to clean HTML.

    Args:
        jobs: the job servers; None: there are none.
        timeout_s: how long an author waits for an answer, in seconds.
    """

    def __init__(self, jobs: Client | None, timeout_s: float) -> None:
        self._jobs = jobs
        self._timeout_s = timeout_s

    @property
    def can(self) -> bool:
        """Whether there is anybody to ask."""
        return self._jobs is not None

    def clean(self, html: str) -> str | None:
        """The HTML without what might do harm; None: nobody could say."""
        if self._jobs is None:
            return None
        try:
            cleaned = self._jobs.do(
                FUNCTION,
                html,
                priority=Priority.HIGH,
                timeout_s=self._timeout_s,
                retries=1,
            ).decode()
        except (GearmanError, UnicodeDecodeError) as error:
            log.warning("HTML could not be cleaned: %s", error)
            CLEANED.labels("failed").inc()
            return None
        CLEANED.labels("done").inc()
        return cleaned
