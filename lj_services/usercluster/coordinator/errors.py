"""What can go wrong with the coordinator."""

from __future__ import annotations

from lj_services.usercluster.errors import UserClusterError


class CoordinatorError(UserClusterError):
    """Base of the coordinator's errors."""


class AnotherRules(CoordinatorError):
    """Another coordinator holds the lock: there is never more than one."""


class Away(CoordinatorError):
    """No coordinator can be reached."""


class OrderRefused(CoordinatorError):
    """The coordinator refuses an order; `code` is its word for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
