"""What the balancer refuses, in the operator's words."""

from __future__ import annotations


class PerlbalError(Exception):
    """Base of the balancer's errors."""


class CommandError(PerlbalError):
    """A line of the configuration language that is refused; the text follows ``ERROR:``."""


class ConfigFileError(PerlbalError):
    """A configuration file that is refused; the text names file, line and reason."""
