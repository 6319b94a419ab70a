"""The configuration language: one line, one command; files and the console speak it alike.

A line goes through these steps, in this order::

    SET  web.listen = ${ip:eth0}:$PORT   # where
    SET web.listen = ${ip:eth0}:$PORT         the comment goes, white space shrinks
    SET web.listen = 10.0.0.5:8080            variables are put in
    set web.listen = 10.0.0.5:8080            left of the first "=" all is lower case

so names of services and pools, and names of parameters, are lower case wherever they are
written; values keep theirs.  The first word says which command it is.

Source: the manual page Perlbal::Manual::Configuration, and Perlbal 1.80's answers.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psutil

from lj_services.perlbal.errors import CommandError

_CURLY = re.compile(r"\$\{(.+?)\}")
_PLAIN = re.compile(r"\$(\w+)")
_FIRST_WORD = re.compile(r"\w+")


def interface_address(name: str) -> str:
    """The first IPv4 address of a network interface.

    Raises:
        CommandError: there is no such interface, or it has none.
    """
    interfaces = psutil.net_if_addrs()
    for address in interfaces.get(name, ()):
        if address.family == socket.AF_INET:
            return str(address.address)
    known = ", ".join(sorted(interfaces))
    raise CommandError(f"Can't find IP of interface '{name}'; there are {known}")


def _expand_curly(match: re.Match[str]) -> str:
    kind, colon, value = match[1].partition(":")
    if kind == "ip" and colon and value:
        return interface_address(value)
    raise CommandError(f"Unknown config variable: {match[1]}; write ${{ip:INTERFACE}}")


@dataclass
class Context:
    """What a file, or a connection to the console, remembers from line to line.

    Attributes:
        last_created: the service or pool that SET without a name means.
        verbose: whether commands that have nothing to say answer ``OK``.
    """

    last_created: str = ""
    verbose: bool = False


@dataclass
class Command:
    """One line on its way to what carries it out.

    Attributes:
        name: the first word, in lower case.
        text: the whole line, lower case left of the first ``=``.
        original: the same with the case that was written.
        context: of the file or connection that it came from.
        lines: what is answered, line by line.
    """

    name: str
    text: str
    original: str
    context: Context
    lines: list[str] = field(default_factory=list)

    def out(self, line: str = "") -> None:
        """Answer a line."""
        self.lines.append(line)

    def end(self) -> None:
        """Close an answer of several lines."""
        self.lines.append(".")

    def ok(self) -> None:
        """Say that it is done, to those who want to hear it."""
        if self.context.verbose:
            self.lines.append("OK")

    def match(self, pattern: re.Pattern[str], usage: str = "") -> re.Match[str]:
        """The line's parts.

        Raises:
            CommandError: the line does not have this form.
        """
        found = pattern.fullmatch(self.text)
        if found is None:
            raise CommandError(usage or f"Invalid syntax to '{self.name}' command")
        return found

    def match_original(self, pattern: re.Pattern[str], usage: str = "") -> re.Match[str]:
        """As `match`, of the line in the case that was written; `pattern` must ignore case."""
        found = pattern.fullmatch(self.original)
        if found is None:
            raise CommandError(usage or f"Invalid syntax to '{self.name}' command")
        return found

    def no_arguments(self) -> None:
        """Refuse a line that has more than the command's name.

        Raises:
            CommandError: it has.
        """
        if self.text != self.name:
            raise CommandError(f"The '{self.name}' command takes no arguments")


def parse_line(
    line: str, context: Context, environment: Mapping[str, str] = os.environ
) -> Command | None:
    """A line as a command; None for one that is empty or only a comment.

    Raises:
        CommandError: a variable is unknown, or the line does not start with a word.
    """
    text = " ".join(line.partition("#")[0].split())
    if not text:
        return None
    text = _CURLY.sub(_expand_curly, text)
    text = _PLAIN.sub(lambda match: environment.get(match[1], ""), text)
    left, equals, right = text.partition("=")
    lowered = left.lower() + equals + right
    word = _FIRST_WORD.match(lowered)
    if word is None:
        raise CommandError("invalid command")
    return Command(word[0], lowered, text, context)


Handler = Callable[[Command], None]
"""Carries out a command: answers through it, or raises `CommandError`."""
